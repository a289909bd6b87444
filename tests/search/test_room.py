"""What a search has no room for is refused, or ends as one failed trial; it never ends the driver."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from played import STUDY, Played
from typer.testing import CliRunner

from raypo.cli import main  # noqa: F401  the commands register themselves
from raypo.cli.common import app
from raypo.errors import StudyError
from raypo.search.commands import Commands
from raypo.search.points import point_of
from raypo.search.preflight import check
from raypo.search.searches import SearchFolder, create
from raypo.study import build

CELLS = 4
GRID: dict[str, Any] = {"dpo": {"beta": {"choice": [0.1, 0.2]}, "lr": {"choice": [1e-5, 1e-4]}}}
NARROW: dict[str, Any] = {"dpo": {"beta": {"log_uniform": [0.001, 1.0]}, "lr": {"log_uniform": [1e-5, 1e-3]}}}


def grid(storage: Path) -> SearchFolder:
    content = {**STUDY, "storage": str(storage), "methods": GRID, "search": {"sampler": "grid", "pruner": "none"}}
    return create(build(content, "grid"))


def narrow(storage: Path, methods: dict[str, Any] = NARROW, **search: Any) -> SearchFolder:
    """A search in which beta = 1 leaves lr no room."""
    wanted = {**STUDY["search"], "constraints": ["beta * lr <= 1e-6"], **search}
    return create(build({**STUDY, "storage": str(storage), "methods": methods, "search": wanted}, "narrow"))


def test_a_grid_gets_no_trials_beyond_its_cells(tmp_path: Path) -> None:
    search = grid(tmp_path)
    played = Played(search)
    command = played.send("extend", trials=2, hours=0.0)
    played.run()
    assert list(played.states.values()) == ["finished"] * CELLS
    assert not played.answer(command).accepted
    assert "as many trials as cells (dpo 4)" in str(played.answer(command).answer)
    refused = CliRunner().invoke(app, ["extend", "played", "--trials", "2", "--storage", str(tmp_path)])
    assert isinstance(refused.exception, StudyError)
    assert Commands(search.ledger).open() == [], "nothing is left for the next driver to refuse"


def test_how_many_trials_a_grid_has_is_said_before_it_starts(tmp_path: Path) -> None:
    said: list[str] = []
    check(grid(tmp_path).study(), said.append)
    assert any(line.endswith("a grid has as many trials as cells, whatever search.trials says: dpo 4") for line in said)


def test_a_grid_that_was_extended_all_the_same_ends_with_its_cells(tmp_path: Path) -> None:
    search = grid(tmp_path)
    commands = Commands(search.ledger)
    commands.close(commands.send("extend", trials=2, hours=0.0), "2 more trials of every method")
    played = Played(search).run()
    assert list(played.states.values()) == ["finished"] * CELLS
    assert not played.conductor.open


@pytest.mark.parametrize("values", [{"beta": 0.2, "lr": 1e-5}, {"beta": 0.2}])
def test_an_enqueued_point_of_a_grid_takes_its_cell(tmp_path: Path, values: dict[str, float]) -> None:
    played = Played(grid(tmp_path))
    played.send("enqueue", method="dpo", values=values)
    played.run()
    points = [row.params for row in played.rows.values()]
    assert points[0].items() >= values.items()
    assert len(points) == len({tuple(point.items()) for point in points}) == CELLS
    again = played.send("enqueue", method="dpo", values={"beta": 0.2, "lr": 1e-5})
    played.run()
    assert played.answer(again).accepted
    assert len(played.rows) == CELLS + 1, "whoever asks for a cell again gets it again"


@pytest.mark.parametrize("beta", [0.1, 0.2])
def test_half_a_point_of_a_grid_gets_a_cell_that_has_it(tmp_path: Path, beta: float) -> None:
    played = Played(grid(tmp_path))
    for _ in range(3):
        played.send("enqueue", method="dpo", values={"beta": beta})
    played.run()
    rows = list(played.rows.values())
    assert [row.params.get("beta") for row in rows[:2]] == [beta, beta]
    assert {row.params["lr"] for row in rows[:2]} == {1e-5, 1e-4}
    assert rows[2].state == "failed"
    assert f"none of the 4 cells of the grid is left with {{'beta': {beta}}}" in str(rows[2].reason)
    assert [row.state for row in rows].count("finished") == CELLS


def test_values_that_leave_no_room_for_the_others_are_refused(tmp_path: Path) -> None:
    search = narrow(tmp_path)
    played = Played(search)
    command = played.send("enqueue", method="dpo", values={"beta": 1.0})
    played.run()
    answer = str(played.answer(command).answer)
    assert answer.startswith("dpo: no trial of this search can have {'beta': 1.0}: search.constraints: none of")
    assert list(played.states.values()) == ["finished"] * 2
    words = ["enqueue", "played", "--method", "dpo", "--set", "beta=1.0", "--storage", str(tmp_path)]
    assert isinstance(CliRunner().invoke(app, words).exception, StudyError)
    assert point_of(search.study(), "dpo", {"beta": 0.05}) == {"beta": 0.05}


def test_an_enqueued_trial_for_which_no_point_is_found_ends_failed_alone(tmp_path: Path) -> None:
    search = narrow(tmp_path)
    search.ledger.enqueue("dpo", {"beta": 1.0}, "of old")
    played = Played(search).run()
    assert list(played.states.values()) == ["failed", "finished"]
    assert "none of 10000 points satisfies beta * lr <= 1e-6" in str(played.rows["dpo-0000"].reason)
    assert ("ended", "dpo-0000") in played.events
    assert ("drawn", "dpo-0000") not in played.events
    command = played.send("resume", trial="dpo-0000")
    played.run()
    assert "ended before it was drawn" in str(played.answer(command).answer)


def test_published_points_that_leave_no_room_are_left_out(tmp_path: Path) -> None:
    methods = {"dpo": {**NARROW["dpo"], "priors": [{"beta": 1.0}, {"beta": 0.01}]}}
    played = Played(narrow(tmp_path, methods, priors=True)).run()
    assert "1 published points lie outside of this search: dpo: no trial" in played.said[0]
    assert list(played.states.values()) == ["finished"] * 2
    assert played.rows["dpo-0000"].params["beta"] == 0.01
