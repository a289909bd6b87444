"""Which examples an optimizer step sees: decided by (seed, step) alone, before ranks and micro-batches share them out.

Resuming needs no saved position, and a step's gradient is the same however many ranks take part. Examples of like
length stand together (buckets inside shuffled windows), labels are spread evenly over batches, and the batches of an
epoch come in shuffled order, its ragged last batch included.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from raypo.data.tokens import TokenSet
from raypo.errors import DataError

WINDOW = 16
"""Batches per window: examples are sorted by length only among this many batches' worth of shuffled neighbours."""


@dataclass(frozen=True, eq=False)
class Plan:
    """The optimizer steps of a training run over E examples.

    lengths [E] cost of an example in tokens; strata [E] small ints (labels) to spread evenly; stage [E] small ints,
    lower ones first in every epoch.
    """

    lengths: np.ndarray
    batch_size: int
    seed: int
    strata: np.ndarray
    stage: np.ndarray

    @classmethod
    def of(cls, tokens: TokenSet, batch_size: int, seed: int) -> Plan:
        """The plan of a token set; unpaired labels are spread so that every batch has the data's share of each."""
        if batch_size < 1:
            raise DataError(f"training.batch_size: must be at least 1, got {batch_size}")
        zero = np.zeros(len(tokens), np.int64)
        labels = (
            zero if tokens.desirable is None else np.asarray(tokens.desirable)[tokens.examples[:, 0]].astype(np.int64)
        )
        return cls(tokens.example_lengths(), batch_size, seed, labels, np.asarray(tokens.stage, np.int64))

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch; every stage ends with a batch of its own."""
        return sum(math.ceil(n / self.batch_size) for n in np.unique(self.stage, return_counts=True)[1])

    def at(self, step: int) -> np.ndarray:
        """int64 [<= batch_size] the examples of optimizer step `step`, counted from 0 over all epochs."""
        epoch, position = divmod(step, self.steps_per_epoch)
        return self.epoch(epoch)[position]

    def epoch(self, epoch: int) -> tuple[np.ndarray, ...]:
        """Batches of an epoch in order; each example once."""
        return _epoch(self, epoch)


@lru_cache(maxsize=8)
def _epoch(plan: Plan, epoch: int) -> tuple[np.ndarray, ...]:
    stages = np.unique(plan.stage)
    return tuple(batch for stage in stages for batch in _stage(plan, epoch, np.flatnonzero(plan.stage == stage)))


def _stage(plan: Plan, epoch: int, members: np.ndarray) -> list[np.ndarray]:
    """Shuffle, cut into windows, sort each by length, cut into batches, shuffle these; the ragged one stays last."""
    size, window = plan.batch_size, plan.batch_size * WINDOW
    shuffled = members[np.argsort(random_keys(plan.seed, epoch, members), kind="stable")]
    shuffled = shuffled[_spread(plan.strata[shuffled])]
    batches: list[np.ndarray] = []
    for start in range(0, len(shuffled), window):
        part = shuffled[start : start + window]
        part = part[np.argsort(plan.lengths[part], kind="stable")]
        part = part[_spread(plan.strata[part])]
        batches += [part[i : i + size] for i in range(0, len(part), size)]
    full = len(batches) if len(batches[-1]) == size else len(batches) - 1
    order = np.argsort(random_keys(plan.seed, ~epoch, np.arange(full)), kind="stable")
    return [batches[i] for i in order] + batches[full:]


def _spread(strata: np.ndarray) -> np.ndarray:
    """Positions that merge the strata evenly, each in its given order: 10 of A and 5 of B come as A B A, A B A, ..."""
    place = np.empty(len(strata))
    for stratum in np.unique(strata):
        where = np.flatnonzero(strata == stratum)
        place[where] = (np.arange(len(where)) + 0.5) / len(where)
    return np.argsort(place, kind="stable")


def random_keys(seed: int, stream: int, items: np.ndarray) -> np.ndarray:
    """uint64 [n] hash of each item under (seed, stream): an order that no library version changes (SplitMix64)."""
    with np.errstate(over="ignore"):
        key = _mix(_mix(np.array([seed], np.int64).astype(np.uint64)) + np.array([stream], np.int64).astype(np.uint64))
        return _mix(np.asarray(items, np.int64).astype(np.uint64) + _mix(key))


def _mix(x: np.ndarray) -> np.ndarray:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def share_out(batch: np.ndarray, lengths: np.ndarray, ranks: int, micro_batch_size: int) -> list[list[np.ndarray]]:
    """Share one step's examples: [rank][micro-batch] -> int64 [<= micro_batch_size] examples.

    Every rank gets equally many micro-batches, longest first, so that collectives stay in step and memory runs out at
    once or never. Where examples do not go round, micro-batches are smaller, and empty on the ranks that come last.
    """
    ordered = batch[np.argsort(-lengths[batch], kind="stable")]
    rounds = np.array_split(ordered, math.ceil(len(ordered) / (ranks * micro_batch_size)))
    return [[part[rank::ranks] for part in rounds] for rank in range(ranks)]


def padding_share(tokens: TokenSet, plan: Plan, epoch: int, ranks: int, micro_batch_size: int) -> float:
    """Share of an epoch's token positions, each micro-batch padded to its longest example, that are padding."""
    micro = [
        plan.lengths[examples]
        for batch in plan.epoch(epoch)
        for rank in share_out(batch, plan.lengths, ranks, micro_batch_size)
        for examples in rank
        if len(examples)
    ]
    return 1 - int(tokens.example_lengths().sum()) / sum(int(lengths.max()) * len(lengths) for lengths in micro)
