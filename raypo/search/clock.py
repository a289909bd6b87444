"""A clock that every run of a search reads alike, whichever slot was faster and whatever was interrupted.

A search repeats exactly only if what a trial may see does not depend on real time. So each method counts in schedules:
a trial takes as long as the part of its schedule that it was trained for, `places` trials go on side by side, and one
begins when an earlier one ends. Its sampler, pruner and race see what was reported by then; only the first ones, which
begin together and would see nobody, are compared by the pruner with those drawn before them, at the same time of the
clock. On equal slots that is what any asynchronous search sees, and they wait for stragglers alone; one that is faster
than the others waits for them.
"""

from __future__ import annotations

import bisect
import copy
import heapq
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from raypo.search.rows import Known
from raypo.study import Study

BEGAN = "began"
"""The attribute of a trial that holds the time at which it began, in schedules."""
_SAME = 1e-6
"""Times that differ by less are one time, for sums of thirds are not exact."""


def _alike(params: Mapping[str, Any]) -> float:  # noqa: ARG001
    return 1.0


@dataclass(frozen=True)
class Clock:
    """Reads the times of trials, whose evaluations come at the fractions `at` of a schedule `length(params)` long.

    At the evaluations `rungs`, by their indices, a trial may end for what others had there.
    """

    at: tuple[float, ...] = (1.0,)
    length: Callable[[Mapping[str, Any]], float] = _alike
    rungs: tuple[int, ...] = ()

    def end(self, trial: FrozenTrial) -> float:
        """When a trial ended, or for one that goes on, the earliest that it can."""
        done = _reported(trial)
        if trial.state == TrialState.COMPLETE:
            done = max(done, len(self.at))
        ended = trial.state in (TrialState.COMPLETE, TrialState.PRUNED) or _paused(trial)
        return self.told(trial, done - 1 if ended else done)

    def undecided(self, trial: FrozenTrial, open_: Iterable[FrozenTrial]) -> bool:
        """Whether one of the first trials waits at a rung for what those drawn before it report by the same time."""
        step = _reported(trial) - 1
        if step not in self.rungs or not among_first(trial) or _paused(trial):
            return False
        now = self.told(trial, step) + _SAME
        earlier = [other for other in open_ if other.number < trial.number and _begun(other) and not _paused(other)]
        return any(self.end(other) <= now for other in earlier)

    def over(self, trial: FrozenTrial, now: float | None) -> bool:
        """Whether a trial had ended by then; without a time, whether it has."""
        return trial.state.is_finished() and (now is None or began(trial) is None or self.end(trial) <= now + _SAME)

    def seen(self, trial: FrozenTrial, now: float | None) -> FrozenTrial | None:
        """A trial as it was at a time; None where it had reported nothing. Without a time, as it is."""
        if now is None or self.over(trial, now):
            return trial
        told = {
            step: value for step, value in trial.intermediate_values.items() if self.told(trial, step) <= now + _SAME
        }
        if not told:
            return None
        seen = copy.copy(trial)
        seen.state, seen.intermediate_values = TrialState.RUNNING, told
        return seen

    def told(self, trial: FrozenTrial, step: int) -> float:
        """When a trial made its evaluation `step`, counted from 0; each further seed takes a schedule more."""
        further = step + 1 - len(self.at)
        schedules = 0.0 if step < 0 else self.at[step] if further <= 0 else 1.0 + further
        return (began(trial) or 0.0) + schedules * self.length(trial.params)


class Timeline:
    """When the next trial of a method begins; it looks at each trial that has ended once."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ends: list[float] = []
        self._open: set[int] = set()
        self._count = 0

    def next(self, places: int, known: Known, trial: Callable[[int], FrozenTrial]) -> float | None:
        """The time from which fewer than `places` trials go on, or None while it is not certain who had ended by then.

        `trial` gives a trial of the method by its number.
        """
        still_open = {each.number for each in known.open}
        for number in (self._open | set(range(self._count, known.count))) - still_open:
            self._ended(trial(number))
        self._open, self._count = still_open, known.count
        going = list(filter(_begun, known.open))
        ends = heapq.nlargest(places, [*self._ends[-places:], *map(self._clock.end, going)])
        if len(ends) < places:
            return 0.0
        # Of one that waits for a decision nothing is certain either, for what it waits for could end before it.
        certain = all(self._clock.end(each) > ends[-1] + _SAME for each in going if not _paused(each))
        return ends[-1] if certain else None

    def _ended(self, trial: FrozenTrial) -> None:
        if trial.state.is_finished() and began(trial) is not None:
            bisect.insort(self._ends, self._clock.end(trial))


def began(trial: FrozenTrial) -> float | None:
    """When a trial began; None for one that was taken over or goes on after its end, whose values everybody sees."""
    return trial.user_attrs.get(BEGAN)


def among_first(trial: FrozenTrial) -> bool:
    """Whether a trial is one of those that a method began with."""
    return (time := began(trial)) is not None and time <= _SAME


def length_of(study: Study, label: str) -> Callable[[Mapping[str, Any]], float]:
    """How long a method's schedules are: where epochs, steps or the share of the data are searched, they differ."""
    fixed = study.fixed(label)
    if not study.space(label).keys() & {"steps", "batch_size", "epochs", "data.fraction"}:
        return _alike

    def length(params: Mapping[str, Any]) -> float:
        point = {**fixed, **params}
        if "steps" in point:
            return float(point["steps"]) * float(point["batch_size"])
        return float(point.get("epochs", 1)) * float(point.get("data.fraction", 1))

    return length


def _begun(trial: FrozenTrial) -> bool:
    """Whether an open trial has its place; a crash may come between an enqueued trial's time and its opening."""
    return began(trial) is not None and trial.state != TrialState.WAITING


def _paused(trial: FrozenTrial) -> bool:
    """A paused trial is waited for by nobody."""
    return trial.user_attrs.get("state") == "paused"


def _reported(trial: FrozenTrial) -> int:
    """How many evaluations a trial has made, with those of further seeds."""
    return _count(trial.user_attrs, "evaluation:", 0) + _count(trial.user_attrs, "repeat:", 1)


def _count(attributes: Mapping[str, Any], kind: str, first: int) -> int:
    number = first
    while f"{kind}{number}" in attributes:
        number += 1
    return number - first
