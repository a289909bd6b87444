"""A configuration with several seeds is one trial, and its value is their average."""

from __future__ import annotations

from pathlib import Path

import pytest
from played import Played, new, study_in, value_of

from raypo.evaluation.completions import append
from raypo.evaluation.judges import Verdict
from raypo.search import searches
from raypo.search.commands import Commands
from raypo.search.folders import trial_folder
from raypo.search.jobs import Job, Outcome

SCORES = {1: (1.0, 0.5, 1.0, 0.0) * 8, 2: (0.0, 0.5, 0.0, 0.0) * 8}
PROMPTS = [f"prompt {i}" for i in range(32)]


def judged(folder: Path, job: Job) -> Outcome | None:
    """Outcomes with verdicts on 32 prompts; a further seed has its own, the first seed the value of its point."""
    if job.until < 1:
        return None
    seed = int(job.trial.rpartition(".r")[2]) if ".r" in job.trial else 0
    scores = SCORES.get(seed, (value_of(job),) * 32)
    where = trial_folder(folder, job.trial)
    where.mkdir(parents=True, exist_ok=True)
    (where / "model").mkdir(exist_ok=True)
    append(
        where / "completions.parquet",
        fraction=1.0,
        prompts=PROMPTS,
        answers=PROMPTS,
        opponents=PROMPTS,
        verdicts=[Verdict(score) for score in scores],
        judge="rule",
    )
    mean = sum(scores) / 32
    figures = dict.fromkeys(("objective", "win_rate", "ci_low", "ci_high"), mean) | {"n": 32, "kl": 1.0 + seed}
    figures |= {"length": 2.0, "judge": "rule", "opponent": "start"}
    return Outcome(job.trial, "finished", 1.0, 10, figures, 2.0)


def test_the_average_is_told_and_counts_once(tmp_path: Path) -> None:
    search = new(tmp_path, repeats={"seeds": 3})
    played = Played(search, outcome=lambda job: judged(search.path, job)).run()
    assert list(played.rows) == ["dpo-0000", "dpo-0001", "ipo-0000", "ipo-0001"]
    row = played.rows["dpo-0000"]
    mean = (row.params["beta"] + 0.625 + 0.125) / 3
    last = row.evaluations[-1]
    assert (last["objective"], last["win_rate"]) == pytest.approx((mean, mean))
    assert last["ci_low"] < mean < last["ci_high"]
    assert (last["n"], last["seeds"], last["kl"]) == (32, 3, 2.0)
    assert row.cost_s == 1.0 + 3 * 2.0
    assert search.ledger.study("dpo").get_trials()[0].value == pytest.approx(mean)
    seeds = {job.seed for job in played.jobs if job.trial.startswith("dpo-0000")}
    assert len(seeds) == 3
    assert not (trial_folder(search.path, "dpo-0000.r1") / "model").exists()
    assert (trial_folder(search.path, "dpo-0000") / "model").exists()
    assert [kind for kind, name in played.events if name == "dpo-0000"] == ["drawn", "evaluated", "evaluated", "ended"]


def test_only_what_would_lead_is_repeated(tmp_path: Path) -> None:
    search = new(tmp_path, repeats={"seeds": 2, "promising_only": True}, trials=6)
    played = Played(search, outcome=lambda job: judged(search.path, job)).run()
    for label, name in (("dpo", "beta"), ("ipo", "tau")):
        rows = [row for row in played.rows.values() if row.label == label]
        best = float("-inf")
        for row in rows:
            assert ("average" in row.attributes) == (row.params[name] > best)
            best = max(best, row.evaluations[-1]["objective"])
        winner = max(rows, key=lambda row: row.evaluations[-1]["objective"])
        assert "average" in winner.attributes, "whoever wins is an average"


@pytest.mark.parametrize("first", ["a", "b"])
def test_who_is_repeated_does_not_depend_on_which_slot_was_faster(tmp_path: Path, first: str) -> None:
    """Two that began together are both repeated, though the one that ends later may be worse."""
    study = study_in(tmp_path, repeats={"seeds": 2, "promising_only": True}, trials=2)
    resources = study.resources.model_copy(update={"slots": 2})
    search = searches.create(
        study.model_copy(update={"resources": resources, "methods": {"dpo": study.methods["dpo"]}})
    )
    conductor = Played(search).conductor
    configs = {trial_id: conductor.next(trial_id) for trial_id in ("a", "b")}
    for trial_id in sorted(configs, key=lambda name: name != first):
        for rung, config in enumerate(configs[trial_id]["jobs"]):
            job = Job(**config)
            figures = dict.fromkeys(("objective", "win_rate", "ci_low", "ci_high"), value_of(job))
            begun = Outcome(job.trial, "running", job.until, 5, figures, 1.0)
            conductor.heard(trial_id, rung, judged(search.path, job) or begun)
    assert [row.attributes["repeated"] for row in search.ledger.rows("dpo")] == [True, True]
    assert {row.state for row in search.ledger.rows("dpo")} == {"finished"}


def test_an_interrupted_trial_goes_on_with_the_seed_that_is_missing(tmp_path: Path) -> None:
    search = new(tmp_path, repeats={"seeds": 3}, trials=1)

    def pause(job: Job) -> None:
        if job.trial == "dpo-0000.r2" and not Commands(search.ledger).all():
            Commands(search.ledger).send("pause", trial="dpo-0000")

    first = Played(search, outcome=lambda job: judged(search.path, job), busy=pause).run()
    assert first.states == {"dpo-0000": "paused", "ipo-0000": "finished"}
    again = Played(search, outcome=lambda job: judged(search.path, job))
    again.send("resume", trial="dpo-0000")
    again.run()
    assert [job.trial for job in again.jobs] == ["dpo-0000.r2"]
    assert again.rows["dpo-0000"].evaluations[-1]["seeds"] == 3


def test_a_seed_that_is_told_again_counts_once(tmp_path: Path) -> None:
    """Tune begins a proxy anew whose node is lost, and that starts again with the first further seed."""
    search = new(tmp_path, repeats={"seeds": 3}, trials=1)
    played = Played(search, outcome=lambda job: judged(search.path, job))
    heard = played.conductor.heard

    def twice(trial_id: str, rung: int, outcome: Outcome) -> bool:
        goes_on = heard(trial_id, rung, outcome)
        return heard(trial_id, rung, outcome) if outcome.trial == "dpo-0000.r1" else goes_on

    played.conductor.heard = twice  # type: ignore[method-assign]
    row = played.run().rows["dpo-0000"]
    assert row.evaluations[-1]["win_rate"] == pytest.approx((row.params["beta"] + 0.625 + 0.125) / 3)
    assert row.cost_s == 1.0 + 3 * 2.0


def test_a_configuration_that_a_seed_cannot_bear_does_not_win(tmp_path: Path) -> None:
    search = new(tmp_path, repeats={"seeds": 3}, trials=1)

    def outcome(job: Job) -> Outcome | None:
        lost = Outcome(job.trial, "diverged", 0.0, reason="KL 300 over the limit of 100", cost_s=0.5)
        return lost if job.trial == "dpo-0000.r2" else judged(search.path, job)

    played = Played(search, outcome=outcome).run()
    assert played.rows["dpo-0000"].state == "diverged"
    assert played.rows["dpo-0000"].reason == "seed 3 of 3: KL 300 over the limit of 100"
    assert played.rows["dpo-0000"].cost_s == 1.0 + 2 * 2.0 + 0.5
    searches.extend(search, 1)
    assert Played(search, outcome=lambda job: judged(search.path, job)).run().states["dpo-0001"] == "finished"


def test_seeds_that_are_done_count_in_the_budget_at_once(tmp_path: Path) -> None:
    search = new(tmp_path, repeats={"seeds": 3}, trials=1)
    spent: dict[str, float] = {}

    def note(job: Job) -> None:
        spent[job.trial] = played.conductor.position.accounts.spent("dpo")

    played = Played(search, outcome=lambda job: judged(search.path, job), busy=note)
    played.run()
    assert (spent["dpo-0000.r1"], spent["dpo-0000.r2"]) == (1.0 + 2.0, 1.0 + 2 * 2.0)
    assert played.conductor.position.accounts.spent("dpo") == 1.0 + 3 * 2.0


def test_a_trial_stopped_between_its_seeds_keeps_what_they_cost_and_goes_on_with_it(tmp_path: Path) -> None:
    search = new(tmp_path, repeats={"seeds": 3}, trials=1)

    def stop(job: Job) -> None:
        if job.trial == "dpo-0000.r2" and not Commands(search.ledger).all():
            Commands(search.ledger).send("stop", trial="dpo-0000")

    first = Played(search, outcome=lambda job: judged(search.path, job), busy=stop).run()
    assert first.states["dpo-0000"] == "stopped"
    half = 0.5
    assert first.rows["dpo-0000"].cost_s == 1.0 + 2 * 2.0 + half
    again = Played(search, outcome=lambda job: judged(search.path, job))
    again.send("resume", trial="dpo-0000")
    assert again.run().rows["dpo-0000"].cost_s == 1.0 + 3 * 2.0 + half


def test_a_failed_seed_does_not_count_the_others_twice(tmp_path: Path) -> None:
    search = new(tmp_path, repeats={"seeds": 3}, trials=1)

    def outcome(job: Job) -> Outcome | None:
        lost = Outcome(job.trial, "failed", 0.0, reason="out of memory", cost_s=0.5)
        return lost if job.trial == "dpo-0000.r2" else judged(search.path, job)

    assert Played(search, outcome=outcome).run().states["dpo-0000"] == "failed"
    again = Played(search, outcome=lambda job: judged(search.path, job))
    again.send("resume", trial="dpo-0000")
    assert again.run().rows["dpo-0000"].cost_s == 1.0 + 3 * 2.0 + 0.5
