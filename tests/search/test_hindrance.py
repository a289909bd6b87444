"""What no trial can do without: the search stops, blames no trial, and goes on from where it was."""

from __future__ import annotations

import contextlib
import errno
from dataclasses import replace
from pathlib import Path

import pytest
from played import Played, new

from raypo.errors import Diverged, JudgeError, JudgeUnavailable, StorageError, StorageUnavailable
from raypo.search import driver
from raypo.search.checkpoints import publish
from raypo.search.in_vain import LEAST, InVain
from raypo.search.jobs import Job, Outcome
from raypo.search.serving import _fault


def spent(job: Job) -> Outcome | None:
    """A second trial, or a second seed, meets a judge whose budget is spent."""
    return Outcome(job.trial, "stopped", 0.0, cost_s=1.0, reason="spent", hinders=True) if "1" in job.trial else None


def test_the_search_stops_and_its_trials_go_on_with_a_resume(tmp_path: Path) -> None:
    search = new(tmp_path)
    played = Played(search, outcome=spent).run()
    assert (played.conductor.stopping, played.conductor.hindrance) == (True, "spent")
    assert sorted(played.states.values()) == ["finished", "finished", "running"]
    again = Played(search).run()
    assert again.conductor.hindrance is None
    assert list(again.states.values()) == ["finished"] * 4


def test_a_further_seed_that_meets_it_ends_no_trial_either(tmp_path: Path) -> None:
    played = Played(new(tmp_path, repeats={"seeds": 2}), outcome=spent).run()
    assert (played.conductor.hindrance, played.states) == ("spent", {"dpo-0000": "running"})


def test_a_search_of_which_only_failures_come_is_stopped(tmp_path: Path) -> None:
    """It has a budget and no number of trials, so that it would draw such trials for hours."""
    search = new(tmp_path, trials=None, budget={"gpu_hours": 1})
    played = Played(search, outcome=lambda job: Outcome(job.trial, "failed", 0.0, reason="no such layer"))
    played.conductor.listen(InVain(1, played.conductor.hinder).heard)
    played.run()
    assert list(played.states.values()) == ["failed"] * LEAST
    assert "10 trials failed one after another" in str(played.conductor.hindrance)
    assert "no such layer" in str(played.conductor.hindrance)


def test_failures_between_evaluations_stop_nothing(tmp_path: Path) -> None:
    search = new(tmp_path, trials=LEAST)
    fails = Outcome("", "failed", 0.0, reason="no room")
    played = Played(search, outcome=lambda job: replace(fails, trial=job.trial) if job.label == "ipo" else None)
    played.conductor.listen(InVain(1, played.conductor.hinder).heard)
    played.run()
    assert played.conductor.hindrance is None
    assert sorted(played.states.values()) == ["failed"] * LEAST + ["finished"] * LEAST


@pytest.mark.parametrize(
    ("error", "hinders"),
    [
        (JudgeUnavailable("spent"), True),
        (StorageUnavailable("full"), True),
        (OSError(errno.ENOSPC, "full"), True),
        (OSError(errno.EIO, "a network file system whose server is gone"), True),
        (OSError(errno.ESTALE, "one that was restarted"), True),
        (OSError(errno.EROFS, "a disk that broke"), True),
        (JudgeError("cannot be read"), False),
        (StorageError("another run's checkpoint"), False),
        (OSError(errno.ENOENT, "not there"), False),
        (Diverged("nan"), False),
    ],
)
def test_which_errors_blame_no_trial(error: Exception, hinders: bool) -> None:
    assert (_fault(error) == "search") is hinders


def test_a_driver_that_finds_no_room_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    search = new(tmp_path)
    monkeypatch.setattr(driver, "mend", full)
    monkeypatch.setattr(driver, "joined", lambda *_: contextlib.nullcontext())
    with pytest.raises(
        StorageUnavailable, match=r"played: the disk is full; make room, and raypo resume played goes on"
    ):
        driver.run(search, search.study(), None)  # type: ignore[arg-type]


def test_a_model_that_finds_no_room_leaves_nothing_behind(tmp_path: Path) -> None:
    def export(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageUnavailable, match=r"model: the model could not be written, the disk is full; make room"):
        publish(tmp_path / "model", export)
    assert list(tmp_path.iterdir()) == []
