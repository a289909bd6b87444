"""What a running search shows: the objective beside the win rate, and how long it will take from here."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from raypo.search.rows import Row
from raypo.study import Study, build
from raypo.terminal import Terminal

EVALUATION = {"win_rate": 0.5, "ci_low": 0.4, "ci_high": 0.6, "kl": 1.0, "fraction": 1.0}
STUDY = {
    "name": "shown",
    "model": {"path": "quickstart"},
    "data": {"source": "quickstart", "heldout": 0.1},
    "methods": {"dpo": {"beta": {"log_uniform": [0.01, 1]}}},
    "objective": {"judge": {"kind": "rule", "function": "quickstart"}, "metric": "lc_win_rate"},
}


def row(number: int, state: str, objective: float = 0.5) -> Row:
    evaluations = ({**EVALUATION, "objective": objective},) if state == "finished" else ()
    return Row(f"dpo-{number:04d}", "dpo", number, state, {}, 0, evaluations)


def followed(rows: list[Row], study: Study | None = None, **conductor: Any) -> tuple[Terminal, io.StringIO]:
    """A terminal that follows a search which has these trials already."""
    shown = io.StringIO()
    terminal = Terminal(Console(file=shown, width=120), quiet=True)
    if study is not None:
        terminal.started("shown", None, study)  # type: ignore[arg-type]
    ledger = SimpleNamespace(rows=lambda: rows)
    played = SimpleNamespace(**{"targets": {"dpo": 64}, "ledger": ledger, "halted": False, "dropped": (), **conductor})
    terminal.running(None, played)  # type: ignore[arg-type]
    return terminal, shown


def test_the_time_left_is_told_from_the_trials_of_this_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("raypo.terminal.time.monotonic", lambda: now[0])
    running = [row(number, "running") for number in range(60, 64)]
    terminal, _ = followed([*(row(number, "finished") for number in range(60)), *running])
    now[0] += 600
    assert terminal._progress() == "60/64 trials over (60 finished, 4 running)"
    terminal.event("ended", row(60, "finished"))
    assert terminal._progress().endswith("about 30 min left")


def test_a_search_that_is_paused_runs_nothing_and_has_no_time_left() -> None:
    terminal, _ = followed([row(0, "finished"), row(1, "running")], halted=True)
    terminal.event("ended", row(0, "finished"))
    terminal.event("ended", row(2, "finished"))
    assert terminal._progress() == "2/64 trials over (2 finished, 1 unfinished), paused until raypo resume"


def test_a_dropped_method_counts_with_what_it_had_and_a_grid_with_all_that_a_fork_took_over() -> None:
    others = [("ipo", "stopped"), ("kto", "running")]
    rows = [row(0, "finished"), *(Row(f"{label}-0000", label, 0, state, {}, 0) for label, state in others)]
    shared: dict[str, Any] = {"targets": {"dpo": 2, "ipo": 16, "kto": 0}, "dropped": {"ipo"}}
    assert followed(rows, **shared)[0]._progress().startswith("2/4 trials over")


def test_trials_stand_in_the_order_of_what_is_maximised_which_is_shown() -> None:
    terminal, shown = followed([row(0, "finished", 0.3), row(1, "finished", 0.7)], build(STUDY, "shown"))
    Console(file=shown, width=120).print(terminal._table({}))
    head, first, second, *_ = shown.getvalue().splitlines()
    assert "length-controlled win rate" in head
    assert first.split()[:1] == ["dpo-0001"]
    assert "70.0 %" in first
    assert "30.0 %" in second
