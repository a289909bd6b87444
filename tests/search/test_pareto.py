"""Several objectives at once: what the ledger is told, which models stay, what a resumed search does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from played import STUDY, Played

from raypo.errors import StudyError
from raypo.search.confirming import candidates
from raypo.search.exporting import Models
from raypo.search.folders import trial_folder
from raypo.search.jobs import Job, Outcome
from raypo.search.measuring import unmeasurable
from raypo.search.ranking import ranked
from raypo.search.searches import SearchFolder, create
from raypo.study import Study, build


def study_of(storage: Path, search: dict[str, Any], **objective: Any) -> Study:
    sections = {
        "objective": {**STUDY["objective"], "pareto": ["win_rate", "-kl"], **objective},
        "search": {**STUDY["search"], **search},
        "methods": {"dpo": {"beta": {"log_uniform": [0.01, 1.0]}}},
        "confirm": {"top": 2, "seeds": 1},
    }
    return build({**STUDY, **sections, "storage": str(storage)}, "pareto")


def traded(job: Job) -> Outcome:
    """A win rate that costs KL: both fall with beta, and beyond 0.3 the KL grows again for nothing."""
    beta = job.point["beta"]
    win_rate, kl = 0.9 - beta / 2, 1 / beta + 100 * max(0.0, beta - 0.3)
    figures = {"win_rate": win_rate, "ci_low": win_rate, "ci_high": win_rate, "n": 8, "kl": kl, "length": 1.0}
    goals = {"objective": win_rate, "objectives": [win_rate, -kl]}
    return Outcome(job.trial, "finished" if job.until >= 1 else "running", job.until, 10, figures | goals, 1.0)


def run(search: SearchFolder, study: Study) -> Played:
    return Played(search, study, outcome=traded).run()


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "gp", "random"])
def test_every_value_is_told_and_an_interrupted_search_draws_the_same(tmp_path: Path, sampler: str) -> None:
    whole = create(study_of(tmp_path / "whole", {"sampler": sampler, "trials": 6}))
    run(whole, whole.study())
    told = whole.ledger.study("dpo")
    assert told.metric_names == ["win_rate", "-kl"]
    rows = {row.number: row for row in whole.ledger.rows("dpo")}
    for trial in told.get_trials():
        last = rows[trial.number].evaluations[-1]
        assert trial.values == [last["win_rate"], -last["kl"]]
    parts = create(study_of(tmp_path / "parts", {"sampler": sampler, "trials": 6}))
    first = Played(parts, outcome=traded)
    first.conductor.targets["dpo"] = 3
    first.run()
    run(parts, parts.study())
    drawn = [[row.params for row in search.ledger.rows("dpo")] for search in (whole, parts)]
    assert drawn[0] == drawn[1]
    assert len({str(params) for params in drawn[0]}) == 6


def test_the_front_comes_first_is_confirmed_first_and_keeps_its_models(tmp_path: Path) -> None:
    study = study_of(tmp_path, {"trials": 12})
    search = create(study)
    models = Models(search.copy, 1, [])

    def leave_model(job: Job) -> Outcome:
        (trial_folder(search.path, job.trial) / "model").mkdir(parents=True, exist_ok=True)
        return traded(job)

    played = Played(search, study, outcome=leave_model)
    played.conductor.listen(models.heard)
    played.run()
    rows = ranked(search.ledger.rows("dpo"))
    front = {row.name for row in rows if row.params["beta"] <= 0.3}
    over = min((row for row in rows if row.params["beta"] > 0.3), key=lambda row: row.params["beta"], default=None)
    assert 1 < len(front) < 12, "the draws lie on both sides"
    assert over is not None
    unbeaten = [row.name for row in rows[: len(front)]]
    assert front <= {*unbeaten, over.name}
    rates = [row.evaluations[-1]["win_rate"] for row in rows[: len(front)]]
    assert rates == sorted(rates, reverse=True)
    chosen = [again.row.name for again in candidates(study, search.ledger, played.conductor.job)]
    assert chosen == [row.name for row in rows[:2]]
    every = study.model_copy(update={"confirm": study.confirm.model_copy(update={"top": 12})})
    chosen = [again.row.name for again in candidates(every, search.ledger, played.conductor.job)]
    assert front <= set(chosen) <= {*front, over.name}, "one that is beaten could not win"
    kept = {path.parent.name for path in search.path.glob("trials/*/model")}
    assert front <= kept
    assert len(kept) < 12, "models of beaten trials are gone"


def test_what_cannot_be_searched_together_is_said_before_anything_starts(tmp_path: Path) -> None:
    told = "\n".join(unmeasurable(study_of(tmp_path, {"pruner": "median", "sampler": "cmaes"}, racing=True)))
    assert "search.pruner: median compares one objective" in told
    assert "search.sampler: cmaes searches one objective" in told
    assert "objective.racing: compares win rates prompt by prompt" in told
    assert not list(unmeasurable(study_of(tmp_path, {"sampler": "nsga2"})))
    with pytest.raises(StudyError, match=r"pareto.*two or three different metrics"):
        study_of(tmp_path, {}, pareto=["win_rate", "win_rate"])
    with pytest.raises(StudyError, match=r"pareto.*'kl'"):
        study_of(tmp_path, {}, pareto=["win_rate", "kl"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"objective": {"opponent": "chosen"}}, "objective.opponent: the quickstart's prompts come without answers"),
        ({"objective": {"metric": "reward_accuracy"}, "data": {"heldout": 0.0}}, "data.heldout: reward_accuracy"),
        ({"objective": {"metric": "reward_accuracy"}, "methods": {"simpo": {}}}, "methods.simpo: reward_accuracy"),
        ({"objective": {"metric": "reward_accuracy"}, "methods": {"kto": {}}}, "trains on unpaired"),
        ({"objective": {"metric": "score", "judge": {"kind": "pairrm", "path": "x"}}}, "pairrm gives none"),
        ({"objective": {"metric": "score", "judge": {"kind": "llm", "model": "m"}}}, "llm with template alpaca_eval"),
        (
            {"objective": {"metric": "lc_win_rate"}, "search": {"pruner": "wilcoxon"}},
            "search.pruner: wilcoxon compares win rates prompt by prompt, the objective is lc_win_rate",
        ),
        ({"objective": {"engine": "vllm"}}, "objective.engine: vllm is not installed"),
        (
            {"data": {"source": "org/pairs"}, "confirm": {"top": 1}},
            "confirm.prompts: org/pairs has no prompts set apart",
        ),
        ({"objective": {"racing": True}, "search": {"repeats": {"seeds": 2}}}, "confirm.seeds, or set racing to false"),
    ],
)
def test_an_objective_that_cannot_be_measured_is_said_before_anything_starts(
    changes: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raypo.search.measuring.installed", lambda _: False)
    content = {**STUDY, "methods": {"dpo": {}}}
    for section, keys in changes.items():
        content[section] = keys if section == "methods" else {**content.get(section, {}), **keys}
    (problem,) = unmeasurable(build(content, "study"))
    assert said in problem
