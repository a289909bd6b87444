"""Budgets: what trials have cost, and whether one more can finish within what is left.

Everything is in device-seconds, the time that a slot was at work times its workers. A wall-clock budget is turned into
the device-seconds that the slots can still do until then. A trial's cost is foreseen from the median of its method's
finished ones; before there is one, nothing is known and the trial begins. What is out of line with its forecast is
stopped at the limit.
"""

from __future__ import annotations

import bisect
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from raypo.search.rows import ADOPTED, Row
from raypo.study import Study

Fair = Literal["trials", "gpu_hours"]

REACTION_S = 1.0
"""How long it takes a slot to hear that it has to stop: trials are told so much before the limit."""


class Accounts:
    """What every trial has cost so far, by method."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self._costs: dict[str, float] = {}
        self._totals: dict[str, float] = {}
        self._adopted: dict[str, float] = {}
        self._finished: dict[str, list[float]] = {}
        for row in rows:
            self.update(row)
            if row.state == "finished":
                self.finished(row)

    def update(self, row: Row) -> None:
        """Take over a trial's cost."""
        change = row.cost_s - self._costs.get(row.name, 0.0)
        self._costs[row.name] = row.cost_s
        self._totals[row.label] = self._totals.get(row.label, 0.0) + change
        if ADOPTED in row.attributes:
            self._adopted[row.label] = self._adopted.get(row.label, 0.0) + change

    def finished(self, row: Row) -> None:
        """A fully trained trial says what the next ones of its method will cost."""
        bisect.insort(self._finished.setdefault(row.label, []), row.cost_s)

    def spent(self, label: str | None = None) -> float:
        """Device-seconds of a method, or of all."""
        return sum(self._totals.values()) if label is None else self._totals.get(label, 0.0)

    def spent_here(self, label: str) -> float:
        """Device-seconds of a method but for what another search has trained."""
        return self.spent(label) - self._adopted.get(label, 0.0)

    @property
    def labels(self) -> list[str]:
        return list(self._totals)

    def typical(self, label: str) -> float | None:
        """Median cost of a method's finished trials."""
        costs = self._finished.get(label)
        return statistics.median(costs) if costs else None


@dataclass(frozen=True)
class Flight:
    """A running trial: what it has cost up to its last evaluation, and in the job it is at since then."""

    label: str
    cost_s: float
    job_s: float = 0.0


@dataclass(frozen=True)
class Budget:
    """The limits of a search; `None` is no limit."""

    device_s: float | None = None
    wall_s: float | None = None
    devices: int = 1
    workers: int = 1
    fair: Fair = "trials"

    @classmethod
    def of(cls, study: Study, more_hours: float) -> Budget:
        """The study's budget with the hours that were added since."""
        wanted, resources = study.search.budget, study.resources
        limit = None if wanted is None else 3600 * ((wanted.gpu_hours or wanted.wall_hours or 0.0) + more_hours)
        return cls(
            device_s=limit if wanted and wanted.gpu_hours else None,
            wall_s=limit if wanted and wanted.wall_hours else None,
            devices=resources.slots * resources.workers,
            workers=resources.workers,
            fair=study.search.fair,
        )

    @property
    def limited(self) -> bool:
        return self.device_s is not None or self.wall_s is not None

    @property
    def whole_s(self) -> float:
        """All device-seconds that there are."""
        return self.device_s if self.device_s is not None else (self.wall_s or 0.0) * self.devices


@dataclass(frozen=True)
class Position:
    """Where a search stands in its budget."""

    budget: Budget
    accounts: Accounts
    running: tuple[Flight, ...]
    counts: Mapping[str, int]
    """Trials drawn of each method that may still get some."""
    wall_s: float = 0.0

    @property
    def spent_s(self) -> float:
        """Device-seconds that are gone, those of running jobs included."""
        return self.accounts.spent() + sum(flight.job_s for flight in self.running)

    @property
    def over(self) -> bool:
        """Whether the limit is reached, so that running trials end."""
        budget = self.budget
        if budget.wall_s is not None:
            return self.wall_s + REACTION_S >= budget.wall_s
        return self._spent_by(sum(flight.job_s > 0 for flight in self.running) * budget.workers)

    def _spent_by(self, devices: int) -> bool:
        """Whether so many devices reach the limit before they hear that they have to stop."""
        limit = self.budget.device_s
        return limit is not None and self.spent_s + devices * REACTION_S >= limit

    def order(self) -> list[str]:
        """Methods, the one furthest behind first."""
        if self.budget.fair == "gpu_hours":
            return sorted(self.counts, key=self._share)
        return sorted(self.counts, key=lambda label: self.counts[label])

    def lead(self, label: str) -> int:
        """Trials that a method is ahead of the one furthest behind; hours are shared out by `may_start` alone."""
        return self.counts[label] - min(self.counts.values()) if self.budget.fair == "trials" else 0

    def may_start(self, label: str) -> bool:
        """Whether another trial of a method can finish, as far as is known."""
        budget = self.budget
        if not budget.limited:
            return True
        if self.over or self._spent_by(budget.devices):  # else one began whenever an ended one had let go of its slot
            return False
        cost = self.accounts.typical(label) or 0.0
        if budget.wall_s is not None:
            ready_s = self._committed() / budget.devices + cost / budget.workers
            if self.wall_s + ready_s > budget.wall_s:
                return False
        if budget.fair == "gpu_hours":
            others = sum(self._had(other) for other in self.accounts.labels if other not in self.counts)
            quota = (budget.whole_s - others) / len(self.counts)
            return self._share(label) + cost <= quota and cost <= self._left()
        # Equal trials: a round begins only when every method can have its trial of it, and of those before it.
        missing = {other: self.counts[label] + 1 - count for other, count in self.counts.items()}
        needed = sum((self.accounts.typical(other) or 0.0) * n for other, n in missing.items() if n > 0)
        return needed <= self._left()

    def _left(self) -> float:
        """Device-seconds that no running trial will need."""
        budget = self.budget
        if budget.wall_s is not None:
            return (budget.wall_s - self.wall_s) * budget.devices - self._committed()
        return budget.whole_s - self.spent_s - self._committed()

    def _committed(self) -> float:
        """Device-seconds that the running trials still need."""
        return sum(map(self._ahead, self.running))

    def _ahead(self, flight: Flight) -> float:
        return max(0.0, (self.accounts.typical(flight.label) or 0.0) - flight.cost_s - flight.job_s)

    def _share(self, label: str) -> float:
        """What a method has had and is about to have."""
        mine = [flight for flight in self.running if flight.label == label]
        return self._had(label) + sum(flight.job_s + self._ahead(flight) for flight in mine)

    def _had(self, label: str) -> float:
        """What a method has had of the budget; hours of the clock went by for none that was taken over."""
        by_clock = self.budget.wall_s is not None
        return self.accounts.spent_here(label) if by_clock else self.accounts.spent(label)
