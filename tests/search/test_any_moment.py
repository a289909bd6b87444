"""A driver killed after any write to the ledger: the search that goes on ends as one that was never disturbed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from played import Played, study_in, value_of
from test_repeats import judged

from raypo.search.jobs import Job, Outcome
from raypo.search.searches import SearchFolder, create, opened

THIRDS = (1 / 3, 2 / 3, 1.0)


def table(search: SearchFolder) -> list[dict[str, Any]]:
    """Everything that is known of every trial."""
    own = ("name", "state", "params", "seed", "evaluations", "reason", "cost_s")
    return [{name: getattr(row, name) for name in own} for row in search.ledger.rows()]


def diverging(folder: Path, job: Job) -> Outcome | None:  # noqa: ARG001
    return Outcome(job.trial, "diverged", 0.0, reason="loss is nan") if job.trial == "ipo-0001" else None


def collapsing(folder: Path, job: Job) -> Outcome | None:  # noqa: ARG001
    """What leads at a third is behind at two thirds, so that both evaluations end trials."""
    value = value_of(job) * (1 if job.until < 0.5 else -1)
    figures = dict.fromkeys(("objective", "win_rate", "ci_low", "ci_high"), value)
    return Outcome(job.trial, "finished" if job.until >= 1 else "running", job.until, 10, figures, 1.0)


def begun(storage: Path, at: tuple[float, ...], settings: dict[str, Any]) -> SearchFolder:
    study = study_in(storage, **settings)
    return create(study.model_copy(update={"objective": study.objective.model_copy(update={"at": at})}))


@pytest.mark.parametrize(
    ("settings", "at", "outcome", "state"),
    [
        ({"trials": 5, "pruner": "median"}, (0.5, 1.0), diverging, "pruned"),
        ({"trials": 6, "pruner": "median", "sampler": "tpe"}, THIRDS, collapsing, "median at 67%"),
        ({"trials": 2}, (0.5, 1.0), diverging, "diverged"),
        ({"trials": 2, "repeats": {"seeds": 2}}, (0.5, 1.0), judged, "finished"),
    ],
)
def test_the_ledger_cut_after_every_line(
    tmp_path: Path,
    settings: dict[str, Any],
    at: tuple[float, ...],
    outcome: Callable[[Path, Job], Outcome | None],
    state: str,
) -> None:
    calm = begun(tmp_path / "calm", at, settings)
    Played(calm, outcome=lambda job: outcome(calm.path, job)).run()
    wanted = table(calm)
    assert any(state in (row["state"], row["reason"]) for row in wanted)
    lines = (calm.path / "ledger.journal").read_bytes().splitlines(keepends=True)
    first = next((i for i, line in enumerate(lines) if state.encode() in line), 10)
    for count in range(max(1, first - 10), len(lines) + 1):  # what comes long before is like the other cases
        storage = tmp_path / f"cut-{count}"
        shutil.copytree(calm.path, storage / calm.name)
        (storage / calm.name / "ledger.journal").write_bytes(b"".join(lines[:count]))
        again = opened(str(storage), calm.name)
        Played(again, again.study(), outcome=lambda job, path=again.path: outcome(path, job)).run()
        assert table(again) == wanted, f"cut after line {count}: {lines[count - 1]!r}"
