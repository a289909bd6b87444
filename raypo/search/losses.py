"""What jobs have lost with worker groups that died: the time it took, and how often in a row without getting on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class _Loss:
    deaths: int = 0
    spent_s: float = 0.0
    saved: float = 0.0


class Losses:
    """Losses of the jobs whose outcome is not told yet, by job id."""

    def __init__(self) -> None:
        self._of: dict[str, _Loss] = {}

    def count(self, job: str, spent_s: float, saved: float) -> int:
        """One more group is dead that had come to a checkpoint at a fraction of the schedule.

        Returns how many groups in a row died without a further checkpoint: on nodes that come and go a long job may
        lose many, and a job that kills its group does so at the same place again.
        """
        loss = self._of.setdefault(job, _Loss())
        if saved > loss.saved:
            loss.deaths, loss.saved = 0, saved
        loss.deaths += 1
        loss.spent_s += spent_s
        return loss.deaths

    def spend(self, job: str, cost_s: float) -> None:
        """Keep what a part of a job has cost, in device-seconds, for its outcome."""
        self._of.setdefault(job, _Loss()).spent_s += cost_s

    def spent_s(self, job: str) -> float:
        return self._of[job].spent_s if job in self._of else 0.0

    def settle(self, job: str) -> float:
        """A job's outcome is there: its device-seconds so far, which are forgotten with everything else of it."""
        return self._of.pop(job, _Loss()).spent_s
