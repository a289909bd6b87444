"""Examples -> forward passes over rows, and log-probs back to the shape a method sees.

A row is a prompt with its completions behind one another ("prefix sharing"): no completion sees its siblings, and each
one's positions go on where the prompt ended. Where a model cannot do that, every sequence is a row of its own.

A row's log-probs must not depend on its company, or cached references would differ from live ones in the last bit.
On CPU that holds when attention takes each row by itself (see `branches`; matrix products treat rows alike): rows lie
behind one another in a single pass, without padding. It holds as well when all rows of a pass have the same width, a
multiple of WIDTH_STEP that follows from the row alone (attention kernels sum in an order that depends on the padded
width): a pass for each width, for short rows, of which many have one, and for models that cannot have rows joined. A
GPU takes one padded pass per micro-batch, and so does ZeRO-3, where all ranks must take equally many; there, equal is
equal up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from raypo.data.tokens import TokenSet

WIDTH_STEP = 16


@dataclass(frozen=True)
class Layout:
    """How examples lie in forward passes: whether the completions of a prompt share a row with it, and how rows lie.

    Rows are `joined` behind one another in one pass, or `padded` to the widest in one pass, or cut into passes
    `by_width`.
    """

    shared: bool
    rows: Literal["joined", "padded", "by_width"]


@dataclass(frozen=True)
class Pass:
    """R rows of one forward pass, W wide, with S tokens to predict: the scored ones, and the prompts' where asked for.

    ids [R, W]; positions [R, W] and branch [R, W] (0 prompt, 1, 2, ... completions, -1 padding), both None where no
    row has more than one completion, for then plain causal attention is right. Joined rows are one, R = 1, with
    positions but no branch: `spans` has the lengths of each one's prompt and of its completions, else nothing.
    where [S] flat position of the hidden state that predicts a token; targets [S] its id; source [S] its place in the
    token set's flat arrays.
    """

    ids: Tensor
    positions: Tensor | None
    branch: Tensor | None
    spans: tuple[tuple[int, ...], ...]
    where: Tensor
    targets: Tensor
    source: np.ndarray

    def to(self, device: torch.device) -> Pass:
        """The same pass with its tensors on `device`."""
        tensors: dict[str, Any] = {name: t.to(device) for name, t in vars(self).items() if isinstance(t, Tensor)}
        return replace(self, **tensors)

    @property
    def widths(self) -> list[int]:
        """Tokens of each row, with its padding."""
        return [sum(spans) for spans in self.spans] or [self.ids.shape[1]] * len(self.ids)

    def attention(self) -> Tensor | None:
        """[R, 1, W, W] bool, True where a token may look; None for plain causal attention."""
        if self.branch is None:
            return None
        asks, looked_at = self.branch[:, :, None], self.branch[:, None, :]
        causal = torch.ones(self.ids.shape[1], self.ids.shape[1], dtype=torch.bool, device=self.ids.device).tril()
        return (causal & ((looked_at == 0) | (looked_at == asks)))[:, None]


@dataclass(frozen=True)
class Row:
    """One row before padding: sequences of the token set that share their prompt.

    `unscored`: whether the tokens of its first sequence that are not scored are predicted, too.
    """

    sequences: tuple[int, ...]
    prompt: int
    length: int
    unscored: bool

    @property
    def width(self) -> int:
        return -(-self.length // WIDTH_STEP) * WIDTH_STEP


def rows_for(tokens: TokenSet, examples: np.ndarray, shared: bool, prompts: bool) -> list[Row]:
    """Rows of some examples: one each where prompts are shared (and in fact equal), else one per sequence.

    With `prompts` the first row of each example predicts its prompt.
    """
    rows: list[Row] = []
    for members in np.asarray(tokens.examples)[examples]:
        sequences = [int(s) for s in members if s >= 0]
        groups = [sequences] if shared and _same_prompt(tokens, sequences) else [[s] for s in sequences]
        rows += [_row(tokens, group, prompts and group[0] == sequences[0]) for group in groups]
    return rows


def _same_prompt(tokens: TokenSet, sequences: Sequence[int]) -> bool:
    first, *others = ((int(tokens.offsets[s]), int(tokens.prompt_lengths[s])) for s in sequences)
    start, n = first
    return all(m == n and np.array_equal(tokens.ids[a : a + m], tokens.ids[start : start + n]) for a, m in others)


def _row(tokens: TokenSet, sequences: Sequence[int], unscored: bool) -> Row:
    prompt = int(tokens.prompt_lengths[sequences[0]])
    answers = sum(int(tokens.offsets[s + 1] - tokens.offsets[s]) - prompt for s in sequences)
    return Row(tuple(sequences), prompt, prompt + answers, unscored)


def passes_for(tokens: TokenSet, rows: Sequence[Row], how: Literal["joined", "padded", "by_width"]) -> list[Pass]:
    """Forward passes over some rows: one for all, or one for each width among them, widest first."""
    if how == "joined":
        return [_pass(tokens, rows, None)]
    if how == "padded":
        return [_pass(tokens, rows, max(row.width for row in rows))]
    widths = sorted({row.width for row in rows}, reverse=True)
    return [_pass(tokens, [row for row in rows if row.width == width], width) for width in widths]


def _pass(tokens: TokenSet, rows: Sequence[Row], width: int | None) -> Pass:
    """One pass of rows padded to a width, or joined where there is none."""
    begins = [0, *accumulate(width or row.length for row in rows)]
    ids, positions = np.zeros((2, begins[-1]), np.int64)
    branch = np.full(begins[-1], -1, np.int64)
    where, source, spans = [], [], []
    for row, begin in zip(rows, begins, strict=False):
        end = begin + row.prompt
        start = int(tokens.offsets[row.sequences[0]])
        ids[begin:end] = tokens.ids[start : start + row.prompt]
        positions[begin:end], branch[begin:end] = np.arange(row.prompt), 0
        lengths = [row.prompt]
        for b, s in enumerate(row.sequences, 1):
            first, last = int(tokens.offsets[s]) + row.prompt, int(tokens.offsets[s + 1])
            n = last - first
            ids[end : end + n] = tokens.ids[first:last]
            positions[end : end + n] = row.prompt + np.arange(n)
            branch[end : end + n] = b
            lengths.append(n)
            scored = np.flatnonzero(tokens.mask[first:last])
            # The token before the first of a completion is the prompt's last one, wherever the completion lies.
            where.append(np.where(scored == 0, begin + row.prompt - 1, end + scored - 1))
            source.append(first + scored)
            end += n
        spans.append(tuple(lengths))
        if row.unscored:
            # The first sequence lies in the row as in the token set; nothing predicts its first token.
            unscored = np.flatnonzero(~tokens.mask[start + 1 : tokens.offsets[row.sequences[0] + 1]])
            where.append(begin + unscored)
            source.append(start + 1 + unscored)
    joined, shape = width is None, (1 if width is None else len(rows), -1)
    branched = any(len(row.sequences) > 1 for row in rows)
    flat = np.concatenate(source)
    return Pass(
        ids=torch.from_numpy(ids.reshape(shape)),
        positions=torch.from_numpy(positions.reshape(shape)) if branched or joined else None,
        branch=torch.from_numpy(branch.reshape(shape)) if branched and not joined else None,
        spans=tuple(spans) if joined else (),
        where=torch.from_numpy(np.concatenate(where)),
        targets=torch.from_numpy(tokens.ids[flat].astype(np.int64)),
        source=flat,
    )


@dataclass(frozen=True)
class MicroBatch:
    """n examples as forward passes, and where their log-probs go in the [N, T] a method sees.

    N sequences in the order of `TokenSet.rows_of` (pairs: all chosen, then all rejected); T completion tokens.
    mask [N, T]; unit [N, T] or None; prompt_mask [n, P]: tokens of each example's first sequence that are not scored,
    P = 0 where they were not asked for; slot [S] place of each predicted token in the flat [N, T] and the flat [n, P]
    behind it, passes one after another; source [S] its place in the token set's flat arrays.
    """

    examples: np.ndarray
    sequences: np.ndarray
    group: np.ndarray
    passes: tuple[Pass, ...]
    mask: Tensor
    unit: Tensor | None
    prompt_mask: Tensor
    slot: Tensor
    source: np.ndarray

    @classmethod
    def of(cls, tokens: TokenSet, examples: np.ndarray, layout: Layout, prompts: bool = False) -> MicroBatch:
        """The micro-batch of some examples (at least one); with `prompts`, their prompts are predicted as well."""
        sequences, group = tokens.rows_of(examples)
        passes = tuple(passes_for(tokens, rows_for(tokens, examples, layout.shared, prompts), layout.rows))
        source = np.concatenate([p.source for p in passes])
        firsts = tokens.offsets[sequences]
        starts, ends = firsts + tokens.prompt_lengths[sequences], tokens.offsets[sequences + 1]
        n, width = len(sequences), max(1, int((ends - starts).max()))
        prompt_width = int((ends - firsts).max()) - 1 if prompts else 0
        place = _places(tokens, sequences, source)
        slot = np.where(
            tokens.mask[source],
            place * width + source - starts[place],
            n * width + np.asarray(group)[place] * prompt_width + source - firsts[place] - 1,
        )
        mask = np.zeros(n * width + len(examples) * prompt_width, bool)
        mask[slot] = True
        unit = None if tokens.unit is None else np.full(mask.shape, -1, np.int64)
        if unit is not None:
            unit[slot] = np.asarray(tokens.unit)[source]
        return cls(
            examples=examples,
            sequences=sequences,
            group=np.asarray(group),
            passes=passes,
            mask=torch.from_numpy(mask[: n * width].reshape(n, width)),
            unit=None if unit is None else torch.from_numpy(unit[: n * width].reshape(n, width)),
            prompt_mask=torch.from_numpy(mask[n * width :].reshape(len(examples), prompt_width)),
            slot=torch.from_numpy(slot),
            source=source,
        )

    def spread(self, flat: Tensor) -> Tensor:
        """[N, T] of the values [S] of predicted tokens, 0 elsewhere; keeps the gradient."""
        return self._placed(flat)[: self.mask.numel()].view(self.mask.shape)

    def spread_prompts(self, flat: Tensor) -> Tensor:
        """[n, P] of the values [S] of predicted tokens, 0 elsewhere; keeps the gradient."""
        return self._placed(flat)[self.mask.numel() :].view(self.prompt_mask.shape)

    def _placed(self, flat: Tensor) -> Tensor:
        out = flat.new_zeros(self.mask.numel() + self.prompt_mask.numel())
        return out.index_put((self.slot.to(flat.device),), flat)


def _places(tokens: TokenSet, sequences: np.ndarray, source: np.ndarray) -> np.ndarray:
    """[S] which of `sequences` each flat token index lies in."""
    order = np.argsort(sequences, kind="stable")
    found = np.searchsorted(tokens.offsets[sequences[order]], source, side="right") - 1
    return order[found]
