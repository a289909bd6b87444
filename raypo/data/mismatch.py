"""Answers paired with other prompts: what KTO estimates its reference point from.

The pairing is fixed for a data set, so that reference log-probs of the mismatched sequences are computed once.
"""

from __future__ import annotations

import numpy as np

from raypo.data.batches import random_keys
from raypo.data.tokens import TokenSet
from raypo.errors import DataError


def partners(groups: np.ndarray, seed: int) -> np.ndarray:
    """int64 [n] for each row another row of a different group; every row is somebody's partner exactly once.

    `groups` [n] ints name each row's prompt. Rows are put in a random order of groups and shifted by the size of the
    largest one. Raises DataError where one group holds more than half of the rows, for then no such pairing exists.
    """
    names, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    n, shift = len(groups), int(sizes.max())
    if 2 * shift > n:
        raise DataError(
            f"data: mismatched answers need prompts that differ, got one prompt in {shift} of {n} rows; at most half"
        )
    order = np.lexsort([random_keys(seed, 0, np.arange(n)), random_keys(seed, 1, np.arange(len(names)))[group]])
    partner = np.empty(n, np.int64)
    partner[order] = np.roll(order, -shift)
    return partner


def mismatched(tokens: TokenSet, max_length: int, seed: int = 0) -> TokenSet:
    """The prompt of each example of an unpaired set with the answer of its partner, cut at `max_length`.

    Example i of the result belongs to example i of `tokens`; its answer keeps the tokens it is trained on.
    """
    rows = np.asarray(tokens.examples)[:, 0]
    prompts = [tokens.sequence(r)[: tokens.prompt_lengths[r]].tobytes() for r in rows]
    numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    partner = rows[partners(np.array([numbers[prompt] for prompt in prompts]), seed)]
    heads = [np.arange(tokens.offsets[r], tokens.offsets[r] + tokens.prompt_lengths[r]) for r in rows]
    tails = [np.arange(tokens.offsets[r] + tokens.prompt_lengths[r], tokens.offsets[r + 1]) for r in partner]
    spans = [np.concatenate([head, tail])[:max_length] for head, tail in zip(heads, tails, strict=True)]
    where = np.concatenate(spans)
    return TokenSet(
        kind="completions",
        ids=np.asarray(tokens.ids[where]),
        offsets=np.concatenate([[0], np.cumsum([len(span) for span in spans])]).astype(np.int64),
        prompt_lengths=np.asarray(tokens.prompt_lengths[rows]),
        mask=np.asarray(tokens.mask[where]),
        unit=None if tokens.unit is None else np.asarray(tokens.unit[where]),
        score=np.full(len(rows), np.nan, np.float32),
        examples=np.arange(len(rows), dtype=np.int32)[:, None],
        record=np.asarray(tokens.record),
        stage=np.zeros(len(rows), np.int16),
        report={"examples": len(rows), "tokens": len(where)},
    )
