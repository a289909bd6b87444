"""A fork keeps what still holds, and says why the rest does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from played import Played, new

from raypo.errors import StudyError
from raypo.search.driver import SearchFolder
from raypo.search.folders import trial_folder
from raypo.search.forking import fork


@pytest.fixture
def old(tmp_path: Path) -> SearchFolder:
    search = new(tmp_path, trials=3)
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


def test_an_impossible_change_leaves_nothing_behind(old: SearchFolder) -> None:
    with pytest.raises(StudyError, match=r"search\.trials"):
        fork(old, "wrong", ["search.trials=-1"])
    assert not (old.path.parent / "wrong").exists()
