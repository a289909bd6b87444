"""Stop judging a configuration once it is clear that it will not be the best.

Prompts are judged in blocks, in one random order that is the same for all. After every block, a configuration whose
paired difference to the best one has an interval below zero drops out. The interval holds at all blocks together, so
looking after each of them costs nothing, and it knows that prompts run out: it closes to a point at the last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raypo.errors import JudgeError
from raypo.evaluation.judges import Comparison, Judge, Verdict
from raypo.evaluation.judges.verdicts import checked
from raypo.evaluation.win_rate import Array

PRIOR = 0.25
"""Sum of squared differences seen beforehand: a block of equal scores does not make an interval of no width."""


@dataclass(frozen=True)
class Race:
    """How a race over `prompts` prompts is run.

    block: prompts judged between two looks; error: chance that one side of an interval ever excludes the truth, which
    is the chance that a given configuration drops out although it would have been the better of two in the end.
    """

    prompts: int
    block: int = 16
    error: float = 0.1
    seed: int = 0

    def blocks(self) -> list[NDArray[np.int64]]:
        """The prompts' numbers in random order, cut into blocks; the same for every configuration of a study."""
        order = np.random.default_rng(self.seed).permutation(self.prompts)
        return [order[i : i + self.block] for i in range(0, self.prompts, self.block)]


def interval(differences: Array, race: Race) -> tuple[float, float]:
    """Anytime-valid interval of the mean difference over all `race.prompts`, from the first n in random order.

    Drawing without replacement makes (S_n - n D) / (N - n) a martingale of variance s^2 n / (N (N - n)); the boundary
    is Robbins' normal mixture over it (Howard et al. 2021, eq. 14; Waudby-Smith and Ramdas 2020 for finite N), with the
    spread estimated from the differences, so it holds from some dozens of prompts on. Tightest after a quarter of them.
    """
    n, total = len(differences), race.prompts
    mean = float(differences.mean())
    if n >= total:
        return mean, mean
    variance = (((differences - mean) ** 2).sum() + PRIOR) / n
    spent = _clock(n, total)
    tightest = _clock(total / 4, total)
    level = -2 * np.log(2 * race.error)
    mixture = tightest / (level + np.log1p(level))
    half = np.sqrt(variance * (spent + mixture) * (np.log(spent / mixture + 1) + level))
    half *= (total - n) / n
    return mean - float(half), mean + float(half)


def trails(scores: Array, best: Array, race: Race) -> bool:
    """Whether scores [n] of the first n prompts are behind the best's [>= n] beyond their interval; nan is left out."""
    apart = scores - best[: len(scores)]
    apart = apart[~np.isnan(apart)]
    return len(apart) > 1 and interval(apart, race)[1] < 0


def judged_until_behind(judge: Judge, items: Sequence[Comparison], best: Array, race: Race) -> list[Verdict | None]:
    """Verdicts in the order of the items, block by block until they trail the best configuration's scores [prompts].

    None stands where an item was left unjudged. Raises JudgeError once more fail than may of all the items.
    """
    found: list[Verdict | None] = [None] * len(items)
    rival = best[np.concatenate(race.blocks())]
    asked: list[Verdict] = []
    for block in race.blocks():
        asked += judge.verdicts([items[i] for i in block])
        checked(asked, judge.name, judge.max_failed, of=len(items))
        for i, verdict in zip(block, asked[-len(block) :], strict=True):
            found[i] = verdict
        if trails(np.array([verdict.score for verdict in asked]), rival, race):
            break
    return found


@dataclass(frozen=True)
class Finish:
    """How a race ended: the winner's number, and how many prompts each configuration was judged on."""

    winner: int
    judged: NDArray[np.int64]


def run(scores: Array, race: Race) -> Finish:
    """Race K configurations side by side over a full matrix of scores [K, prompts], as if they were judged now."""
    if scores.shape[1] != race.prompts:
        raise JudgeError(f"racing: the race is over {race.prompts} prompts, got scores of {scores.shape[1]}")
    ordered = scores[:, np.concatenate(race.blocks())]
    judged = np.zeros(len(scores), dtype=np.int64)
    running = list(range(len(scores)))
    for end in np.cumsum([len(block) for block in race.blocks()]):
        judged[running] = end
        leader = max(running, key=lambda k: np.nanmean(ordered[k, :end]))
        running = [k for k in running if k == leader or not trails(ordered[k, :end], ordered[leader], race)]
    return Finish(leader, judged)


def run_in_turn(scores: Array, race: Race) -> Finish:
    """Race K configurations that arrive one after another, each against the best so far, as trials of a search do."""
    ordered = scores[:, np.concatenate(race.blocks())]
    ends = np.cumsum([len(block) for block in race.blocks()])
    judged = np.zeros(len(scores), dtype=np.int64)
    best = 0
    for k in range(len(scores)):
        judged[k] = next((end for end in ends if k and trails(ordered[k, :end], ordered[best], race)), race.prompts)
        if judged[k] == race.prompts and np.nanmean(ordered[k]) > np.nanmean(ordered[best]):
            best = k
    return Finish(best, judged)


def share(finishes: Sequence[Finish], race: Race) -> float:
    """Judge calls made in these races, as a share of judging every configuration on every prompt."""
    return float(np.mean([finish.judged.mean() for finish in finishes]) / race.prompts)


def _clock(n: float, total: int) -> float:
    """Variance that the martingale has gathered after n of `total` prompts, for differences of unit variance."""
    return n / (total * (total - n))
