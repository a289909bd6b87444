"""Tokenised preference data: flat numpy arrays that load memory-mapped and are shared by every trial."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from raypo.data.records import Kind
from raypo.errors import DataError

FORMAT = 2


@dataclass(frozen=True)
class TokenSet:
    """S token sequences (prompt + completion) and the E examples made of them.

    Flat arrays [total] are cut by `offsets`: sequence s is ids[offsets[s]:offsets[s + 1]]. Arrays aligned with `ids`
    (reference log-probs, for one) keep that layout, 0 off the mask.
    """

    kind: Kind
    ids: np.ndarray
    """int32 [total] token ids: prompt, completion, end of sequence or of turn unless truncated."""
    offsets: np.ndarray
    """int64 [S + 1]."""
    prompt_lengths: np.ndarray
    """int32 [S] leading tokens shared by all sequences of an example, never scored, at least 1."""
    mask: np.ndarray
    """bool [total] tokens that are scored; holes where a conversation's other side speaks."""
    unit: np.ndarray | None
    """int16 [total] number of the turn a scored token belongs to, -1 off the mask; None where all have one turn."""
    score: np.ndarray
    """float32 [S] score of the completion, nan where the data has none."""
    examples: np.ndarray
    """int32 [E, K] sequences of each example: (chosen, rejected), one completion, or a ranked list padded with -1."""
    record: np.ndarray
    """int32 [E] index of the record an example was made from."""
    stage: np.ndarray
    """int16 [E] place in the curriculum; all 0 without one."""
    desirable: np.ndarray | None = None
    """bool [S], for unpaired data only."""
    report: dict[str, int] = field(default_factory=dict)
    """Counts of what was read, dropped and truncated, by name."""

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def lengths(self) -> np.ndarray:
        """int64 [S] tokens of each sequence."""
        return np.diff(self.offsets)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return int(self.lengths.max())

    @cached_property
    def mean_example(self) -> float:
        """Mean tokens of an example with its prompt counted once."""
        return float(self.example_lengths().mean())

    def example_lengths(self) -> np.ndarray:
        """int64 [E] tokens of each example with its prompt counted once: what a prefix-shared forward pass costs."""
        rows = np.asarray(self.examples)
        there = rows >= 0
        answers = np.where(there, (self.lengths - self.prompt_lengths)[rows], 0).sum(-1)
        return answers + self.prompt_lengths[rows[:, 0]]

    def rows_of(self, examples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sequences of some examples and the example (0, 1, ...) of each; for pairs all chosen, then all rejected."""
        rows = np.asarray(self.examples)[examples].astype(np.int64)
        group = np.broadcast_to(np.arange(len(rows))[:, None], rows.shape)
        if self.kind == "pairs":
            rows, group = rows.T, group.T
        return rows[rows >= 0], group[rows >= 0]

    def sequence(self, s: int) -> np.ndarray:
        """int32 [length] ids of sequence s."""
        return self.ids[self.offsets[s] : self.offsets[s + 1]]

    def save(self, folder: Path) -> None:
        """Write one .npy file per array and a small JSON file into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, np.ndarray):
                np.save(folder / f"{f.name}.npy", value, allow_pickle=False)
        meta = {"format": FORMAT, "kind": self.kind, "report": self.report}
        (folder / "tokens.json").write_text(json.dumps(meta, indent=1))

    @classmethod
    def load(cls, folder: Path) -> TokenSet:
        """Open a saved set; arrays are read-only memory maps, so ranks on one machine share the pages."""
        try:
            meta = json.loads((folder / "tokens.json").read_text())
        except FileNotFoundError:
            raise DataError(f"{folder}: no tokenised data here, tokens.json is missing") from None
        if meta["format"] != FORMAT:
            raise DataError(f"{folder}: tokenised data of format {meta['format']}; this version reads format {FORMAT}")
        arrays: dict[str, Any] = {file.stem: _open(file) for file in sorted(folder.glob("*.npy"))}
        return cls(**({"unit": None} | arrays), kind=meta["kind"], report=meta["report"])


def _open(file: Path) -> np.ndarray:
    """A read-only array; plain numpy views of the map, because np.memmap's own subclass slows every slice."""
    return np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))
