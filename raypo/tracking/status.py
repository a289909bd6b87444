"""Every trial of a search and its state, as JSON and as a terminal table."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table

from raypo.search.results import Evaluation, SearchResults, TrialResult
from raypo.tracking.tables import configuration, number


def as_json(results: SearchResults, driver: str | None) -> dict[str, Any]:
    """What `raypo status --json` prints; `driver` names the process that runs the search now."""
    return {"search": results.name, "driver": driver, "trials": [_trial(trial) for trial in results.trials]}


def to_rich(results: SearchResults, driver: str | None) -> Table:
    """A row per trial, in the order they were drawn."""
    running = f"run by {driver}" if driver else "not running"
    drawn = Table(title=results.name, caption=running, box=box.SIMPLE_HEAD)
    for column in ("trial", "state", "done", "win rate %", "KL", "device-s", "configuration", "reason"):
        drawn.add_column(column, overflow="fold")
    for trial in results.trials:
        last = trial.estimate
        interval = _interval(last) if last else "–"
        drawn.add_row(
            trial.name,
            trial.state,
            f"{trial.fraction:.0%}",
            interval,
            number(last.kl, 2) if last else "–",
            number(trial.cost_s),
            configuration(trial.hyperparameters),
            trial.reason or "",
        )
    return drawn


def _trial(trial: TrialResult) -> dict[str, Any]:
    last = trial.estimate
    return {
        "trial": trial.name,
        "method": trial.method,
        "state": trial.state,
        "fraction": trial.fraction,
        "hyperparameters": dict(trial.hyperparameters),
        "win_rate": last.win_rate if last else None,
        "ci_low": last.ci_low if last else None,
        "ci_high": last.ci_high if last else None,
        "n": last.n if last else None,
        "kl": last.kl if last else None,
        "evaluations": len(trial.history),
        "cost_s": trial.cost_s,
        "reason": trial.reason,
    }


def _interval(last: Evaluation) -> str:
    rate, low, high = (number(value, scale=100) for value in (last.win_rate, last.ci_low, last.ci_high))
    return f"{rate} [{low}, {high}]"
