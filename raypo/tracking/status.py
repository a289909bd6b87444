"""Every trial of a search and its state, as JSON and as a terminal table."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.live import Live as Screen
from rich.table import Table

from raypo.evaluation.goals import as_measured, metric_of
from raypo.search.commands import Commands
from raypo.search.folders import LIVE, read_json
from raypo.search.lease import holder
from raypo.search.reading import read_results
from raypo.search.results import Evaluation, SearchResults, TrialResult
from raypo.search.searches import opened
from raypo.tracking.compare import goals_of
from raypo.tracking.tables import configuration, number

WATCH_EVERY_S = 1.0


Live = Mapping[str, Mapping[str, Any]] | None
"""Where running trials are, by name: "fraction" of the schedule and "stage" of the work; None while slots have none."""


def read(storage: str, name: str) -> tuple[SearchResults, str | None, Live, bool]:
    """What a search found so far, the process that runs it now, where its running trials are, whether it is paused."""
    found = opened(storage, name)
    driver = holder(found.copy)
    live = read_json(found.path / LIVE) if driver else None
    paused = Commands(found.ledger).standing().halted
    return read_results(found), driver, live["trials"] if live else None, paused


def follow(storage: str, name: str, console: Console) -> None:
    """Show the status, again and again, until no process runs the search."""
    with Screen(console=console, auto_refresh=False) as screen:
        while True:
            now = read(storage, name)
            screen.update(to_rich(*now), refresh=True)
            if now[1] is None:
                return
            time.sleep(WATCH_EVERY_S)


def as_json(results: SearchResults, driver: str | None, live: Live, paused: bool = False) -> dict[str, Any]:
    """What `raypo status --json` prints; `driver` names the process that runs the search now."""
    trials = [{**_trial(trial), **(live or {}).get(trial.name, {})} for trial in results.trials]
    return {"search": results.name, "driver": driver, "paused": paused, "trials": trials}


def to_rich(results: SearchResults, driver: str | None, live: Live, paused: bool = False) -> Table:
    """A row per trial, in the order they were drawn."""
    drawn = Table(title=results.name, caption=_caption(results.name, driver, live, paused), box=box.SIMPLE_HEAD)
    goal = goals_of(results)[0]
    chosen = [] if goal == "win_rate" else [metric_of(goal).column]
    for column in ("trial", "state", "done", *chosen, "win rate %", "KL", "device-s", "configuration", "reason"):
        drawn.add_column(column, overflow="fold")
    for trial in results.trials:
        last = trial.estimate
        interval = _interval(last) if last else "–"
        now = (live or {}).get(trial.name, {})
        rests = trial.state == "running" and (live is None or paused)
        drawn.add_row(
            trial.name,
            now.get("stage", "unfinished" if rests else trial.state),
            f"{now.get('fraction', trial.fraction):.0%}",
            *([_objective(last, goal)] if chosen else []),
            interval,
            number(last.kl, 2) if last else "–",
            number(trial.cost_s),
            configuration(trial.hyperparameters),
            trial.reason or "",
        )
    return drawn


def _caption(name: str, driver: str | None, live: Live, paused: bool) -> str:
    """Who is at the search, and what it waits for."""
    told = [f"run by {driver}" if driver else "not running"]
    if paused:
        told.append(f"paused, raypo resume {name} goes on")
    if driver and live is None:
        told.append("making ready what trials share, or ending")
    return "; ".join(told)


def _trial(trial: TrialResult) -> dict[str, Any]:
    last = trial.estimate
    return {
        "trial": trial.name,
        "method": trial.method,
        "state": trial.state,
        "fraction": trial.fraction,
        "hyperparameters": dict(trial.hyperparameters),
        "objective": last.metrics.get("objective") if last else None,
        "win_rate": last.win_rate if last else None,
        "ci_low": last.ci_low if last else None,
        "ci_high": last.ci_high if last else None,
        "n": last.n if last else None,
        "kl": last.kl if last else None,
        "evaluations": len(trial.history),
        "cost_s": trial.cost_s,
        "reason": trial.reason,
    }


def _objective(last: Evaluation | None, goal: str) -> str:
    value = last.metrics.get("objective") if last else None
    return metric_of(goal).write(None if value is None else as_measured(value, goal))


def _interval(last: Evaluation) -> str:
    rate, low, high = (number(value, scale=100) for value in (last.win_rate, last.ci_low, last.ci_high))
    return f"{rate} [{low}, {high}]"
