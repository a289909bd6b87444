"""Examples -> padded tensors. Pure functions of a token set: nothing here remembers, shuffles or moves to a device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raypo.data.tokens import TokenSet


@dataclass(frozen=True)
class Padded:
    """N sequences padded at the end to L tokens.

    Rows of pairs: all chosen, then all rejected, so that row b and row N/2 + b belong together. Other kinds: example
    after example, `group` [N] saying which. ids [N, L] int64; attention, mask [N, L] bool (mask: scored tokens);
    unit [N, L] int64, -1 off the mask, or None; score [N] float32, nan = none; prompt_lengths [N] int64; desirable
    [N] bool or None; rows [N] int64 indices into the token set.
    """

    ids: Tensor
    attention: Tensor
    mask: Tensor
    unit: Tensor | None
    score: Tensor
    prompt_lengths: Tensor
    group: Tensor
    desirable: Tensor | None
    rows: np.ndarray

    def __len__(self) -> int:
        return self.ids.shape[0]


def rows_of(tokens: TokenSet, examples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sequences of some examples and the example (0, 1, ...) of each; for pairs all chosen, then all rejected."""
    rows = np.asarray(tokens.examples)[examples].astype(np.int64)
    group = np.broadcast_to(np.arange(len(rows))[:, None], rows.shape)
    if tokens.kind == "pairs":
        rows, group = rows.T, group.T
    return rows[rows >= 0], group[rows >= 0]


def collate(tokens: TokenSet, examples: np.ndarray, pad_id: int = 0) -> Padded:
    """Padded tensors of some examples; `pad_id` fills what attention hides, so it may be any token."""
    rows, group = rows_of(tokens, examples)
    lengths = torch.from_numpy(tokens.lengths[rows])
    attention = torch.arange(int(lengths.max()) if len(rows) else 0) < lengths[:, None]
    return Padded(
        ids=pad(tokens, tokens.ids, rows, pad_id).long(),
        attention=attention,
        mask=pad(tokens, tokens.mask, rows, False),
        unit=None if tokens.unit is None else pad(tokens, tokens.unit, rows, -1).long(),
        score=torch.from_numpy(np.array(tokens.score[rows])),
        prompt_lengths=torch.from_numpy(tokens.prompt_lengths[rows].astype(np.int64)),
        group=torch.from_numpy(np.array(group)),
        desirable=None if tokens.desirable is None else torch.from_numpy(np.array(tokens.desirable[rows])),
        rows=rows,
    )


def pad(tokens: TokenSet, flat: np.ndarray, rows: np.ndarray, fill: float | int | bool) -> Tensor:
    """[N, L] rows of a flat array aligned with `tokens.ids` (reference log-probs, say), `fill` after each one's end."""
    spans = [flat[tokens.offsets[r] : tokens.offsets[r + 1]] for r in rows]
    padded = np.full((len(rows), max(map(len, spans), default=0)), fill, flat.dtype)
    for target, span in zip(padded, spans, strict=True):
        target[: len(span)] = span
    return torch.from_numpy(padded)
