"""A driver killed after any write to the ledger: the search that goes on ends as one that was never disturbed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from played import Played, new
from test_repeats import judged

from raypo.search.jobs import Job, Outcome
from raypo.search.searches import SearchFolder, opened


def table(search: SearchFolder) -> list[dict[str, Any]]:
    """Everything that is known of every trial."""
    own = ("name", "state", "params", "seed", "evaluations", "reason", "cost_s")
    return [{name: getattr(row, name) for name in own} for row in search.ledger.rows()]


def diverging(folder: Path, job: Job) -> Outcome | None:  # noqa: ARG001
    return Outcome(job.trial, "diverged", 0.0, reason="loss is nan") if job.trial == "ipo-0001" else None


@pytest.mark.parametrize(
    ("settings", "outcome", "state"),
    [
        ({"trials": 9, "pruner": "median"}, diverging, "pruned"),
        ({"trials": 2}, diverging, "diverged"),
        ({"trials": 2, "repeats": {"seeds": 2}}, judged, "finished"),
    ],
)
def test_the_ledger_cut_after_every_line(
    tmp_path: Path, settings: dict[str, Any], outcome: Callable[[Path, Job], Outcome | None], state: str
) -> None:
    calm = new(tmp_path / "calm", **settings)
    Played(calm, outcome=lambda job: outcome(calm.path, job)).run()
    wanted = table(calm)
    assert state in {row["state"] for row in wanted}
    lines = (calm.path / "ledger.journal").read_bytes().splitlines(keepends=True)
    first = next((i for i, line in enumerate(lines) if state.encode() in line), 10)
    for count in range(max(1, first - 10), len(lines) + 1):  # what comes long before is like the other cases
        storage = tmp_path / f"cut-{count}"
        shutil.copytree(calm.path, storage / calm.name)
        (storage / calm.name / "ledger.journal").write_bytes(b"".join(lines[:count]))
        again = opened(str(storage), calm.name)
        Played(again, again.study(), outcome=lambda job, path=again.path: outcome(path, job)).run()
        assert table(again) == wanted, f"cut after line {count}: {lines[count - 1]!r}"
