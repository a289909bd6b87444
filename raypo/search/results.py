"""What a search found, as plain frozen data: everything that a comparison, a report or W&B may read.

The ledger fills these; nothing here opens a file, a database or a connection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from raypo.search.ranking import Standing, counted, standing_of

Value = float | int | str | bool
State = Literal["waiting", "running", "paused", "finished", "pruned", "failed", "diverged", "stopped"]


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of one trial, at one point of its schedule.

    `fraction` is in (0, 1], `win_rate` and its 95 % interval in [0, 1], `n` the number of judged prompts, `kl` in nats
    per completion, `length` in tokens, `cost_s` in device-seconds since the trial began. `objectives` holds what a
    search of several maximises, larger is better.
    """

    fraction: float
    step: int
    win_rate: float
    ci_low: float
    ci_high: float
    n: int
    kl: float
    length: float
    cost_s: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    objectives: tuple[float, ...] = ()


@dataclass(frozen=True)
class TrialResult:
    """One configuration of one method and what became of it.

    `fraction` is the part of the schedule that was trained, `history` its evaluations in order, `reason` why it was
    pruned, failed or diverged, `cost_s` its device-seconds. `confirmation` holds `win_rate`, `ci_low`, `ci_high`, `n`,
    `seeds` and `spread` measured on prompts that the search never saw, or 0 `seeds` and why all `failed`; `benchmarks`
    has `task`, `metric`, `value`, `standard_error` and `n` each.
    """

    name: str
    method: str
    number: int
    state: State
    hyperparameters: Mapping[str, Value]
    fraction: float
    history: tuple[Evaluation, ...]
    cost_s: float
    folder: Path
    seed: int
    reason: str | None = None
    checkpoint: str | None = None
    confirmation: Mapping[str, Any] | None = None
    benchmarks: tuple[Mapping[str, Any], ...] = ()

    @property
    def estimate(self) -> Evaluation | None:
        """The latest evaluation, or None before the first."""
        return self.history[-1] if self.history else None

    @property
    def confirmed(self) -> Mapping[str, Any] | None:
        """Its confirmation, or None where no seed of that came to a figure."""
        return counted(self.confirmation)

    @property
    def standing(self) -> Standing | None:
        """What it is ranked by; None where it was not trained to the end and measured."""
        last = self.estimate
        if self.state != "finished" or self.fraction < 1.0 or last is None:
            return None
        figures = {"win_rate": last.win_rate, "objectives": last.objectives, **last.metrics}
        return standing_of(figures, self.confirmation)


@dataclass(frozen=True)
class SearchResults:
    """All trials of a search with the resolved study file and the versions it ran under.

    `origins` has the model and the data that all trials come from, by kind, each with its content hash, `contents` the
    hash of every source by its key in the study; `allow_code` says whether the study may run code of its own.
    """

    name: str
    folder: Path
    study: Mapping[str, Any]
    versions: Mapping[str, str]
    trials: tuple[TrialResult, ...]
    origins: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    contents: Mapping[str, str] = field(default_factory=dict)
    allow_code: bool = False

    @property
    def methods(self) -> tuple[str, ...]:
        """Method names, in the order of the study file."""
        return tuple(dict.fromkeys([*self.study.get("methods", {}), *(trial.method for trial in self.trials)]))
