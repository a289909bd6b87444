"""Which of a method's trials are best: for tables, export and benchmarks, for confirmation, for whose model is kept.

Rows of the ledger and results that were read from it are ranked alike, by their standing, so that whoever asks is told
the same winner.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from raypo.evaluation.goals import front


@dataclass(frozen=True)
class Standing:
    """What a fully trained trial is ranked by, larger is better in all of it.

    `judged` says whether it was judged on every prompt, `objective` is the (first) objective, `objectives` all of
    several, and `confirmed` the (first) objective on unseen prompts.
    """

    judged: bool
    objective: float
    objectives: tuple[float, ...] = ()
    confirmed: float | None = None

    @property
    def chosen_by(self) -> float:
        """The objective that a winner is chosen by."""
        return self.objective if self.confirmed is None else self.confirmed


class Ranked(Protocol):
    """A trial with its standing; None while it cannot win."""

    @property
    def standing(self) -> Standing | None: ...


Trial = TypeVar("Trial", bound=Ranked)


def standing_of(evaluation: Mapping[str, Any], confirmation: Mapping[str, Any] | None) -> Standing | None:
    """The standing of a trial by its last evaluation; None where that has no number to show for it."""
    figures = [float(evaluation[name]) for name in ("objective", "win_rate") if name in evaluation]
    if not figures or not all(map(math.isfinite, figures)):
        return None
    found = counted(confirmation)
    return Standing(
        judged="not_judged" not in evaluation,
        objective=figures[0],
        objectives=tuple(evaluation.get("objectives", ())),
        confirmed=None if found is None else float(found.get("objective", found["win_rate"])),
    )


def counted(confirmation: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """A confirmation, unless no seed of it came to a figure."""
    return confirmation if confirmation and confirmation.get("seeds", 1) else None


def winner(trials: Iterable[Trial]) -> Trial | None:
    """The best trial of one method, of those confirmed on unseen prompts where there are any, or None.

    The others' figures still carry the optimism of having been searched. Of several objectives the front alone counts.
    """
    able = _unbeaten(trials)
    confirmed = [(trial, standing) for trial, standing in able if standing.confirmed is not None]
    best = max(confirmed, key=lambda pair: pair[1].chosen_by, default=able[0] if able else None)
    return None if best is None else best[0]


def contenders(trials: Iterable[Trial]) -> list[Trial]:
    """The fully trained trials of one method that may win, best first; of several objectives, those of the front."""
    return [trial for trial, _ in _unbeaten(trials)]


def ranked(trials: Iterable[Trial]) -> list[Trial]:
    """The fully trained trials of one method, best first; of several objectives, those of the front before all others.

    One that was raced out, and so judged on a part of the prompts, comes after all that were judged on all.
    """
    return [trial for trial, _ in _stood(trials)]


def _unbeaten(trials: Iterable[Trial]) -> list[tuple[Trial, Standing]]:
    able = _stood(trials)
    points = [standing.objectives for _, standing in able]
    return [able[i] for i in front(points)] if any(points) else able


def _stood(trials: Iterable[Trial]) -> list[tuple[Trial, Standing]]:
    able = [(trial, standing) for trial in trials if (standing := trial.standing) is not None]
    points = [standing.objectives for _, standing in able]
    unbeaten = set(front(points)) if any(points) else set()
    # Of equal ones the earlier comes first, for the sort is stable.
    order = sorted(
        range(len(able)), key=lambda i: (i in unbeaten, able[i][1].judged, able[i][1].objective), reverse=True
    )
    return [able[i] for i in order]
