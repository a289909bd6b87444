"""A fork keeps what still holds, and says why the rest does not."""

from __future__ import annotations

from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest
from played import STUDY, Played, value_of
from played import new as new_search

from raypo.errors import StorageError, StudyError
from raypo.evaluation.completions import append
from raypo.evaluation.judges import Verdict
from raypo.search import forking
from raypo.search.commands import Commands
from raypo.search.confirming import candidates, confirm
from raypo.search.exporting import copy_model
from raypo.search.folders import contents_file, evaluation_file, read_json, trial_folder, write_json
from raypo.search.forking import fork
from raypo.search.jobs import Job, Outcome
from raypo.search.repeats import stored
from raypo.search.searches import SearchFolder, create, opened
from raypo.study import build

PROMPTS = [f"prompt {i}" for i in range(8)]


@pytest.fixture
def old(tmp_path: Path) -> SearchFolder:
    search = new_search(tmp_path, trials=3)
    Played(search).run()
    for row in search.ledger.rows():
        folder = trial_folder(search.path, row.name)
        (folder / "model").mkdir(parents=True)
        (folder / "model" / "config.json").write_text(row.name)
    return search


def test_trials_that_hold_are_taken_over_and_no_others_are_trained(old: SearchFolder) -> None:
    made = fork(old, "wider", ["search.trials=4", "search.sampler=tpe", "resources.slots=2"])
    assert made.dropped == {}
    assert sorted(made.taken) == [row.name for row in old.ledger.rows()]
    for was, now in made.taken.items():
        before, after = old.ledger.row(was), made.search.ledger.row(now)
        assert (after.state, after.params, after.seed) == ("finished", before.params, before.seed)
        assert (after.evaluations, after.cost_s) == (before.evaluations, before.cost_s)
        assert (trial_folder(made.search.path, now) / "model" / "config.json").read_text() == was
    played = Played(made.search).run()
    assert {job.trial for job in played.jobs} == {"dpo-0003", "ipo-0003"}


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_what_a_fork_draws_is_new_where_some_trials_were_left_behind(tmp_path: Path, sampler: str) -> None:
    """Numbers close up over those that failed, and a number decides on a point and on the seed of its training."""

    def fails(job: Job) -> Outcome | None:
        return Outcome(job.trial, "failed", 0.0, reason="no room") if job.trial in ("dpo-0000", "dpo-0001") else None

    search = new_search(tmp_path, trials=4, sampler=sampler)
    Played(search, outcome=fails).run()
    made = fork(search, "second", [])
    Played(made.search).run()
    again = fork(made.search, "third", ["search.trials=6", "methods.ipo=null"])
    rows = Played(again.search).run().rows.values()
    everything = {row.params["beta"]: row.seed for row in [*rows, *search.ledger.rows("dpo")]}
    assert len(everything) == len(set(everything.values())) == 6 + 2, "two of the first search were left behind"


def test_a_fork_of_which_all_holds_goes_on_as_the_old_search_would(old: SearchFolder) -> None:
    made = fork(old, "more", ["search.trials=4"])
    played = Played(made.search).run()
    Commands(old.ledger).send("extend", trials=1, hours=0.0)
    undisturbed = Played(old).run()
    for name in ("dpo-0003", "ipo-0003"):
        assert (played.rows[name].params, played.rows[name].seed) == (
            undisturbed.rows[name].params,
            undisturbed.rows[name].seed,
        )


@pytest.mark.parametrize(
    ("search", "changed"),
    [
        ({"sampler": "random", "trials": 5}, "search.sampler=grid"),
        ({"sampler": "grid"}, "search.constraints=['lr <= 5e-5']"),
    ],
)
def test_a_grid_that_takes_trials_over_tries_all_of_its_cells(
    tmp_path: Path, search: dict[str, Any], changed: str
) -> None:
    """Random draws had some cells twice; of a grid's cells a new constraint leaves some out."""

    def fails(job: Job) -> Outcome | None:
        lost = search["sampler"] == "grid" and job.trial in ("dpo-0000", "dpo-0001")
        return Outcome(job.trial, "failed", 0.0, reason="no room") if lost else None

    axes = {"beta": {"choice": [0.01, 0.1, 0.5]}, "lr": {"choice": [1e-5, 1e-4]}}
    content = {**STUDY, "storage": str(tmp_path), "methods": {"dpo": axes}, "search": {"pruner": "none", **search}}
    first = create(build(content, "first"))
    Played(first, outcome=fails).run()
    made = fork(first, "second", [changed])
    rows = Played(made.search).run().rows.values()
    tried = {(row.params["beta"], row.params["lr"]) for row in rows}
    rates = [1e-5] if search["sampler"] == "grid" else [1e-5, 1e-4]
    assert tried >= {(beta, lr) for beta in (0.01, 0.1, 0.5) for lr in rates}


def test_trials_that_are_best_here_and_whose_models_are_gone_are_named(old: SearchFolder) -> None:
    last, *_ = sorted(old.ledger.rows("dpo"), key=lambda row: row.params["beta"])
    rmtree(trial_folder(old.path, last.name) / "model")
    made = fork(old, "less", [f"methods.dpo.beta.log_uniform=[0.01, {last.params['beta']}]"])
    assert made.modelless == ["dpo-0000"]
    with pytest.raises(StorageError, match=r"dpo-0000: its model is not kept; .* had removed"):
        copy_model(made.search.copy, made.study, "dpo-0000", old.path / "out")


def test_a_model_that_its_search_removes_meanwhile_is_left_out_whole(
    old: SearchFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trial_folder(old.path, "dpo-0001") / "model"
    (model / "weights").write_text("of dpo-0001")
    link = forking._link

    def removed(source: str, to: str) -> None:
        if Path(source).parent == model and model.exists():
            other = model / ("weights" if source.endswith("config.json") else "config.json")
            other.rename(old.path / "aside")  # one file is there to copy, one is not any more
            link(source, to)
            old.copy.drop(model, "config.json")
        else:
            link(source, to)

    monkeypatch.setattr(forking, "_link", removed)
    made = fork(old, "new", [])
    assert len(made.taken) == 6
    assert not (trial_folder(made.search.path, made.taken["dpo-0001"]) / "model").exists()
    assert (trial_folder(made.search.path, made.taken["dpo-0000"]) / "model" / "config.json").exists()


def test_a_fork_that_is_killed_knows_of_no_trial_without_its_files(
    old: SearchFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Exception):
        """The command is gone."""

    def killed(*arguments: object) -> None:
        if arguments[2] == "dpo-0002":
            raise Killed
        copy(*arguments)

    copy = forking._copy
    monkeypatch.setattr(forking, "_copy", killed)
    with pytest.raises(Killed):
        fork(old, "killed", [])
    found = opened(str(old.path.parent), "killed")
    assert [row.name for row in found.ledger.rows()] == ["dpo-0000", "dpo-0001"]
    assert all(trial_folder(found.path, row.name).is_dir() for row in found.ledger.rows())


def test_a_narrower_space_keeps_what_lies_in_it(old: SearchFolder) -> None:
    betas = sorted(row.params["beta"] for row in old.ledger.rows("dpo"))
    made = fork(old, "narrow", [f"methods.dpo.beta.log_uniform=[{betas[1]}, 1.0]", "methods.ipo=null"])
    kept = made.search.ledger.rows("dpo")
    assert sorted(row.params["beta"] for row in kept) == betas[1:]
    reasons = set(made.dropped.values())
    assert "its method is gone" in reasons
    assert any("lies outside of" in reason for reason in reasons)
    assert Played(made.search).run().jobs[0].trial == "dpo-0002", "a place is left, and one trial is drawn for it"


def test_a_fixed_value_keeps_the_trials_that_had_it(old: SearchFolder) -> None:
    row = old.ledger.row("dpo-0001")
    made = fork(old, "fixed", [f"methods.dpo.beta={row.params['beta']!r}"])
    assert list(made.taken) == ["dpo-0001", "ipo-0000", "ipo-0001", "ipo-0002"]
    assert made.search.ledger.row(made.taken["dpo-0001"]).params == {}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("model.dtype=bf16", "model.dtype differs"),
        ("data.count=100", "data.count differs"),
        ("objective.sampling.seed=1", "objective.sampling differs"),
        ("search.seed=1", "search.seed differs"),
        ("search.repeats.seeds=3", "search.repeats differs"),
        ("training.lr=0.001", "lr is 0.001 now, it was 0.0001"),
    ],
)
def test_whatever_changes_figures_drops_the_trials(old: SearchFolder, change: str, why: str) -> None:
    made = fork(old, "other", [change])
    assert made.taken == {}
    assert set(made.dropped.values()) == {why}


def test_how_a_judge_is_asked_and_paid_keeps_the_trials_and_who_it_is_does_not(tmp_path: Path) -> None:
    judge = {"kind": "llm", "model": "a", "max_cost": 1, "price_per_million_tokens": [1, 2]}
    search = create(build({**STUDY, "storage": str(tmp_path), "objective": {"judge": judge, "at": [1]}}, "asked"))
    Played(search).run()
    asked = [f"objective.judge.{text}" for text in ("max_cost=5", "concurrency=2", "base_url=http://localhost:1/v1")]
    assert len(fork(search, "richer", asked).taken) == 4
    assert set(fork(search, "another", ["objective.judge.model=b"]).dropped.values()) == {"objective.judge differs"}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("training.micro_batch_size=1", "training.micro_batch_size is 1 now, it was 8"),
        ("resources.workers=2", "resources.workers is 2 now, it was 1"),
    ],
)
def test_losses_that_are_defined_on_a_micro_batch_hold_on_the_same_one_alone(
    tmp_path: Path, change: str, why: str
) -> None:
    methods: dict[str, Any] = {name: {} for name in ("dpo", "kto", "kto_tanh", "rpo", "rpo_unpaired", "beta_dpo")}
    methods["offline_ppo"] = {"whiten": {"choice": [True, False]}}
    search = {"trials": 2 * len(methods), "sampler": "grid", "pruner": "none"}
    old = create(build({**STUDY, "methods": methods, "search": search, "storage": str(tmp_path)}, "sizes"), "sizes")
    Played(old).run()
    made = fork(old, "other", [change])
    indifferent = {r.name for r in old.ledger.rows() if r.label == "dpo" or r.params.get("whiten") is False}
    assert made.taken.keys() == indifferent
    for trial, reason in made.dropped.items():
        method = old.ledger.row(trial).label
        assert reason == f"{why}, and the loss of {method} is defined on a micro-batch of all workers"
    assert {old.ledger.row(trial).label for trial in made.dropped} == methods.keys() - {"dpo"}


def test_noise_that_becomes_searched_drops_the_trials_whose_start_had_learnt_it(tmp_path: Path) -> None:
    content = {
        **STUDY,
        "model": {"path": "quickstart", "sft": {}},
        "data": {"source": "pairs.jsonl", "transforms": [{"flip_labels": 0.1}]},
        "storage": str(tmp_path),
    }
    old = create(build(content, "noisy"), "noisy")
    Played(old).run()
    searched = "data.transforms=[{flip_labels: {choice: [0.1, 0.2]}}]"
    assert set(fork(old, "searched", [searched]).dropped.values()) == {"data.transforms differs for model.sft"}
    assert fork(old, "seen_whole", ["search.trials=3"]).dropped == {}


PPO = {
    "kl_mode": {"choice": ["k3_ref", "exact"]},
    "epsilon": {"log_uniform": [0.05, 0.5]},
    "conditions": {"epsilon": "kl_mode == exact"},
}


def test_a_trial_without_a_value_for_an_idle_axis_holds(tmp_path: Path) -> None:
    wanted = {**STUDY["search"], "trials": 8}
    content = {**STUDY, "storage": str(tmp_path), "methods": {"offline_ppo": PPO}, "search": wanted}
    old = create(build(content, "conditional"), "conditional")
    Played(old).run()
    rows = {row.name: row for row in old.ledger.rows()}
    idle = {name for name, row in rows.items() if "epsilon" not in row.params}
    assert 0 < len(idle) < 8
    made = fork(old, "same", [])
    assert made.dropped == {}
    assert {made.search.ledger.row(now).name: rows[was].params for was, now in made.taken.items()} == {
        row.name: row.params for row in made.search.ledger.rows()
    }
    assert Played(made.search).run().jobs == []
    always = fork(old, "always", ["methods.offline_ppo.conditions=null"])
    assert set(always.dropped) == idle, "their epsilon would matter now, and nobody knows it"
    turned = fork(old, "turned", ["methods.offline_ppo.conditions.epsilon=kl_mode == k3_ref"])
    assert turned.taken == {}


def test_a_published_point_that_was_tried_is_not_tried_again(tmp_path: Path) -> None:
    methods = {"dpo": {**STUDY["methods"]["dpo"], "priors": [{"beta": 0.02}, {"beta": 0.05}, {"beta": 0.5}]}}
    wanted = {**STUDY["search"], "priors": True, "trials": 3}
    old = create(build({**STUDY, "storage": str(tmp_path), "methods": methods, "search": wanted}, "played"))

    def fails(job: Job) -> Outcome | None:
        return Outcome(job.trial, "failed", 0.0, reason="the disk is full") if job.trial == "dpo-0001" else None

    Played(old, outcome=fails).run()
    Commands(old.ledger).send("resume", trial="dpo-0001")
    Played(old).run()
    made = fork(old, "narrow", ["methods.dpo.beta.log_uniform=[0.03, 1.0]"])
    again = Played(made.search).run()
    betas = [row.params["beta"] for row in again.rows.values()]
    assert sorted(betas[:2]) == [0.05, 0.5]
    assert len(betas) == 3
    assert betas[2] not in (0.02, 0.05, 0.5), "whichever number they had, both are known"


def test_an_impossible_change_leaves_nothing_behind(old: SearchFolder) -> None:
    with pytest.raises(StudyError, match=r"search\.trials"):
        fork(old, "wrong", ["search.trials=-1"])
    assert not (old.path.parent / "wrong").exists()


class Slot:
    """Does jobs as a bench does: a record that stands is the outcome, and a new one is written with its answers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trained: list[str] = []

    def __call__(self, job: Job) -> Outcome:
        record = evaluation_file(self.folder, job.trial, job.until)
        if record.exists():
            return Outcome(**read_json(record))  # type: ignore[arg-type]
        value, where = value_of(job), trial_folder(self.folder, job.trial)
        where.mkdir(parents=True, exist_ok=True)
        verdicts = [Verdict(value)] * len(PROMPTS)
        columns = {"prompts": PROMPTS, "answers": PROMPTS, "opponents": PROMPTS, "verdicts": verdicts}
        append(where / "completions.parquet", fraction=job.until, judge="rule", **columns)
        figures = dict.fromkeys(("objective", "win_rate", "ci_low", "ci_high"), value)
        figures |= {"n": 8, "kl": 0.0, "length": 1.0, "judge": "rule", "opponent": "start"}
        state = "finished" if job.until == 1 else "running"
        done = Outcome(job.trial, state, job.until, 4, figures, 1.0, f"trials/{job.trial}/model")  # type: ignore[arg-type]
        write_json(record, vars(done))
        self.trained.append(job.trial)
        return done


def settled(storage: Path, name: str, **sections: dict[str, object]) -> SearchFolder:
    """A search of one method and two trials with two seeds each, whose best is confirmed with two seeds."""
    content = {**STUDY, "name": name, "storage": str(storage), "methods": {"dpo": STUDY["methods"]["dpo"]}}
    content["search"] = {**STUDY["search"], "repeats": {"seeds": 2}}
    content["confirm"] = {"top": 1, "seeds": 2, "prompts": {"split": "confirm", "count": 8}}
    search = create(build({**content, **sections}, name))
    finish(search)
    return search


def finish(search: SearchFolder) -> list[str]:
    """Run a search with its confirmation to the end; what had to be trained for it."""
    slot = Slot(search.path)
    played = Played(search, outcome=slot).run()
    work = candidates(search.study(), search.ledger, played.conductor.job)
    confirm(search.ledger, search.path, work, lambda jobs: map(slot, jobs), lambda _: None)
    return slot.trained


def best_of(search: SearchFolder) -> str:
    return max(search.ledger.rows("dpo"), key=lambda row: row.params["beta"]).name


def test_further_seeds_and_confirmations_come_along_under_the_new_name(tmp_path: Path) -> None:
    old = settled(tmp_path, "old")
    best = best_of(old)
    beta = old.ledger.row(best).params["beta"]
    other = next(row.params["beta"] for row in old.ledger.rows() if row.name != best)
    low, high = (beta, 1.0) if beta > other else (0.01, beta)
    made = fork(old, "new", [f"methods.dpo.beta.log_uniform=[{low}, {high}]", "search.trials=1"])
    assert made.taken == {best: "dpo-0000"}
    for suffix in ("", ".r1", ".s0", ".s1"):
        record = read_json(evaluation_file(made.search.path, f"dpo-0000{suffix}", 1.0))
        assert record["trial"] == f"dpo-0000{suffix}"  # type: ignore[index]
        assert record["checkpoint"] == f"trials/dpo-0000{suffix}/model"  # type: ignore[index]
        before = read_json(evaluation_file(old.path, f"{best}{suffix}", 1.0))
        assert before["trial"] == f"{best}{suffix}", "the old search's record is its own"  # type: ignore[index]
    row = made.search.ledger.row("dpo-0000")
    assert [outcome.trial for outcome in stored(row)] == ["dpo-0000.r1"]
    assert row.confirmation == old.ledger.row(best).confirmation
    assert finish(made.search) == []


@pytest.mark.parametrize(
    ("change", "trained"),
    [
        ("confirm.seeds=3", {".s2"}),
        ("confirm.seeds=1", set()),
        ("confirm.top=2", None),
        ("confirm.prompts.count=4", {".s0", ".s1"}),
    ],
)
def test_a_changed_confirmation_trains_only_what_is_missing(
    tmp_path: Path, change: str, trained: set[str] | None
) -> None:
    old = settled(tmp_path, "old")
    best = best_of(old)
    made = fork(old, "new", [change])
    others = {row.name for row in old.ledger.rows()} - {best}
    expected = {f"{other}.s{k}" for other in others for k in range(2)} if trained is None else None
    assert set(finish(made.search)) == (expected or {best + suffix for suffix in trained or ()})
    confirmation = made.search.ledger.row(best).confirmation
    assert confirmation is not None
    assert confirmation["seeds"] == made.search.study().confirm.seeds


def test_a_seed_that_was_not_trained_to_the_end_is_left_behind(tmp_path: Path) -> None:
    old = settled(tmp_path, "old")
    best = best_of(old)
    evaluation_file(old.path, f"{best}.s1", 1.0).unlink()
    made = fork(old, "new", ["confirm.seeds=3"])
    assert not trial_folder(made.search.path, f"{best}.s1").exists()
    assert finish(made.search) == [f"{best}.s1", f"{best}.s2"]


def test_the_preparation_is_told_what_the_trials_that_came_along_were_trained_on(old: SearchFolder) -> None:
    known = {"data.source": "a" * 32, "confirm.prompts": "b" * 32}
    write_json(contents_file(old.path), known)
    assert read_json(contents_file(fork(old, "same", []).search.path)) == known
    other = fork(old, "other", ["confirm.prompts.count=4", "confirm.prompts.split=confirm"])
    assert read_json(contents_file(other.search.path)) == {"data.source": "a" * 32}
