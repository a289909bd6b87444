"""Whoever asks is told the same winner: of the ledger's rows, and of the results that are read from them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from played import STUDY

from raypo.search.ranking import ranked, winner
from raypo.search.reading import trial_result
from raypo.search.rows import Row
from raypo.study import build

FIGURES = {"ci_low": 0.0, "ci_high": 1.0, "n": 8, "kl": 1.0, "length": 1.0, "fraction": 1.0, "step": 10}


def rows(*trials: dict[str, Any]) -> list[Row]:
    """Finished trials of one method; each is given as what differs from a win rate of one half."""
    return [_row(number, dict(trial)) for number, trial in enumerate(trials)]


def _row(number: int, trial: dict[str, Any]) -> Row:
    state, confirmation = trial.pop("state", "finished"), trial.pop("confirmation", None)
    evaluation = {**FIGURES, "win_rate": 0.5, "objective": trial.get("win_rate", 0.5), **trial}
    return Row(f"dpo-{number:04d}", "dpo", number, state, {}, 0, (evaluation,), confirmation=confirmation)


def confirmed(win_rate: float, **also: float) -> dict[str, Any]:
    return {"win_rate": win_rate, "ci_low": 0.0, "ci_high": 1.0, "n": 9, "seeds": 2, "spread": 0.0, **also}


LOST = {"seeds": 0, "failed": {"dpo-0000.s0": "out of memory"}}


@pytest.mark.parametrize(
    ("best", "trials"),
    [
        (1, rows({}, {"win_rate": 0.6}, {"win_rate": 0.9, "state": "pruned"})),
        (0, rows({}, {})),
        (1, rows({"win_rate": 0.6}, {"confirmation": confirmed(0.4)})),
        (1, rows({"confirmation": confirmed(0.4)}, {"confirmation": confirmed(0.6)}, {"win_rate": 0.9})),
        (0, rows({"win_rate": 0.6, "confirmation": LOST}, {})),
        (1, rows({"win_rate": 0.6, "confirmation": LOST}, {"confirmation": confirmed(0.1)})),
        (1, rows({"win_rate": 0.9, "objective": 1.0}, {"objective": 2.0})),
        (0, rows({"objective": 1.0, "confirmation": confirmed(0.1, objective=3.0)}, {"objective": 2.0})),
        (1, rows({"win_rate": 0.9, "not_judged": 4}, {})),
        (1, rows({"win_rate": math.nan, "objective": 2.0}, {})),
        (1, rows({"objective": math.nan}, {})),
        (1, rows({"objectives": [0.5, -9.0]}, {"objectives": [0.5, -3.0]})),
        (1, rows({"objectives": [0.5, -9.0], "confirmation": confirmed(0.9)}, {"objectives": [0.5, -3.0]})),
    ],
)
def test_rows_and_results_have_the_same_winner(best: int, trials: list[Row]) -> None:
    study = build(STUDY, "study")
    results = [trial_result(row, Path("search"), study) for row in trials]
    assert winner(trials) == trials[best]
    assert winner(results) == results[best]
    assert [result.name for result in ranked(results)] == [row.name for row in ranked(trials)]


def test_nobody_wins_where_nothing_was_trained_to_the_end() -> None:
    assert winner(rows({"state": "failed"}, {"win_rate": math.nan})) is None
