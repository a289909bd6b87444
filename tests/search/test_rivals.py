"""Rivals: whom a configuration races against depends on the clock alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import played
import pytest

from raypo.search.jobs import Job, Outcome
from raypo.search.ledger import Ledger
from raypo.search.repeats import jobs_of
from raypo.search.rivals import racing
from raypo.search.samplers import make_sampler
from raypo.search.searches import create
from raypo.study import Study, build

SPACE = {"beta": optuna.distributions.FloatDistribution(0.01, 1.0)}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    objective = {**played.STUDY["objective"], "racing": True}
    return build({**played.STUDY, "objective": objective, "storage": str(tmp_path)}, "played")


def finished(ledger: Ledger, now: float, win_rates: tuple[float, float], **figures: Any) -> None:
    row = ledger.ask("dpo", make_sampler("random", 0, SPACE), 0, now)
    for index, (at, rate) in enumerate(zip((0.5, 1.0), win_rates, strict=True)):
        found = {"win_rate": rate, "objective": rate, **figures}
        row = ledger.record(row, index, Outcome(row.name, "finished" if index else "running", at, evaluation=found))
    ledger.end(row, "finished")


def test_the_rival_is_the_best_that_had_ended_and_was_judged_in_full(study: Study, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "journal", "played")
    finished(ledger, 0.0, (0.6, 0.5))
    finished(ledger, 0.0, (0.5, 0.6))
    finished(ledger, 0.0, (0.9, 0.9), not_judged=3)
    finished(ledger, 0.5, (0.9, 0.9))
    row = ledger.ask("dpo", make_sampler("random", 0, SPACE), 0, 1.0)
    jobs = racing(study, ledger, row, jobs_of(study, Job(row.name, "dpo", {}, 0, 1.0)))
    assert [job.rival for job in jobs] == ["dpo-0000", "dpo-0001"], "dpo-0003 goes on until 1.5"


def test_the_first_has_no_rival_and_without_racing_nobody_has(study: Study, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "journal", "played")
    row = ledger.ask("dpo", make_sampler("random", 0, SPACE), 0, 0.0)
    jobs = jobs_of(study, Job(row.name, "dpo", {}, 0, 1.0))
    assert {job.rival for job in racing(study, ledger, row, jobs)} == {None}
    finished(ledger, 0.0, (0.6, 0.5))
    later = ledger.ask("dpo", make_sampler("random", 0, SPACE), 0, 1.0)
    calm = study.model_copy(update={"objective": study.objective.model_copy(update={"racing": False})})
    assert {job.rival for job in racing(calm, ledger, later, jobs)} == {None}


def test_jobs_reach_the_slots_with_their_rival(study: Study) -> None:
    search = study.model_copy(update={"search": study.search.model_copy(update={"trials": 2})})
    run = played.Played(create(search)).run()
    rivals = {(job.trial, job.until): job.rival for job in run.jobs if job.label == "ipo"}
    assert rivals == {
        ("ipo-0000", 0.5): None,
        ("ipo-0000", 1.0): None,
        ("ipo-0001", 0.5): "ipo-0000",
        ("ipo-0001", 1.0): "ipo-0000",
    }
