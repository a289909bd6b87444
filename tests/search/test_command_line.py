"""The words of the command line reach a search that rests: what is asked for is carried out by its next driver."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from pathlib import Path

import pytest
from played import STUDY, Played, new
from typer.testing import CliRunner

from raypo import yaml
from raypo.artifacts import Store
from raypo.cli import common, running, steering
from raypo.cli.common import app
from raypo.errors import ClusterError, StorageError, StudyError
from raypo.search.commands import Commands
from raypo.search.folders import LIVE, artifact_store, origins_file, write_json
from raypo.search.jobs import Job
from raypo.search.lease import lease
from raypo.search.searches import SearchFolder, create, opened
from raypo.study import build


def raypo(storage: Path, *words: str) -> str:
    """What a command prints; its error where it has one."""
    done = CliRunner().invoke(app, [*words, "--storage", str(storage)])
    if done.exception is not None:
        raise done.exception
    return done.output


def interrupted(storage: Path) -> Played:
    """A search that was stopped at the second part of its second trial."""
    search = new(storage)

    def stop(job: Job) -> None:
        if (job.trial, job.until) == ("ipo-0000", 1.0):
            Commands(search.ledger).send("stop", trial=None)

    played = Played(search, busy=stop).run()
    assert played.states == {"dpo-0000": "finished", "ipo-0000": "running"}
    return played


def test_a_command_mends_the_journal_of_a_driver_that_was_killed_before_it_writes(tmp_path: Path) -> None:
    search = interrupted(tmp_path).search
    search.journal.write_bytes(search.journal.read_bytes() + b'{"op_code": 8, "torn')
    raypo(tmp_path, "status", "played")
    raypo(tmp_path, "pause", "played", "--trial", "ipo-0000")
    assert Played(search).run().states["ipo-0000"] == "paused"


def test_trials_are_paused_and_stopped_values_enqueued_and_methods_added_and_dropped(tmp_path: Path) -> None:
    search = interrupted(tmp_path).search
    assert "raypo resume played carries this out first" in raypo(tmp_path, "pause", "played", "--trial", "ipo-0000")
    raypo(tmp_path, "enqueue", "played", "--method", "dpo", "--set", "beta=0.5")
    raypo(tmp_path, "add-method", "played", "simpo", "--set", "beta={log_uniform: [0.1, 1]}")
    again = Played(search).run()
    assert again.states.pop("ipo-0000") == "paused"
    assert again.rows["dpo-0001"].params == {"beta": 0.5}
    assert [name for name in again.states if name.startswith("simpo")] == ["simpo-0000", "simpo-0001"]

    raypo(tmp_path, "stop", "played", "--trial", "ipo-0000")
    raypo(tmp_path, "drop-method", "played", "simpo")
    raypo(tmp_path, "add-method", "played", "wide", "--set", "method=dpo", "--set", "beta={uniform: [1, 2]}")
    last = Played(search).run()
    assert last.states["ipo-0000"] == "stopped"
    assert {row.label for row in last.rows.values()} == {"dpo", "ipo", "simpo", "wide"}
    assert [command.accepted for command in Commands(search.ledger).all()][1:] == [True] * 6
    shown = json.loads(raypo(tmp_path, "status", "played", "--json"))
    assert {trial["trial"]: trial["state"] for trial in shown["trials"]} == last.states


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["drop-method", "played", "nosuch"], "nosuch: no such method in this search; there are dpo, ipo"),
        (["enqueue", "played", "--method", "dpo", "--set", "beta=true"], "dpo.beta: got True, outside of the axis"),
        (["enqueue", "played", "--method", "dpo", "--set", "beta=.nan"], "dpo.beta: got nan, outside of the axis"),
        (["extend", "played", "--hours", "inf"], "--hours: needs a number of hours, got inf"),
        (["extend", "played", "--hours", "1"], "--hours: this search has no budget; --trials adds trials"),
    ],
)
def test_what_no_driver_could_do_is_refused_at_once(tmp_path: Path, words: list[str], why: str) -> None:
    search = new(tmp_path)
    with pytest.raises(StudyError, match=why):
        raypo(tmp_path, *words)
    assert Commands(search.ledger).all() == []


def test_a_waiting_trial_shows_the_values_that_were_set_and_no_others(tmp_path: Path) -> None:
    training = {"lr": {"log_uniform": [1e-6, 1e-4]}, "batch_size": 8}
    search = create(build({**STUDY, "training": training, "storage": str(tmp_path)}, "played"))
    search.ledger.enqueue("dpo", {"beta": 0.5}, "a test")
    (waiting,) = json.loads(raypo(tmp_path, "status", "played", "--json"))["trials"]
    assert (waiting["state"], waiting["hyperparameters"]) == ("waiting", {"beta": 0.5})


def test_status_says_who_is_at_a_search_and_what_it_waits_for(tmp_path: Path) -> None:
    """A trial that the ledger has as running runs nowhere without a driver, or while all of them are paused."""
    search = new(tmp_path)
    with lease(search.copy, search.name):
        assert "; making ready what trials share" in raypo(tmp_path, "status", "played")
    search = interrupted(tmp_path / "stopped").search
    shown = raypo(tmp_path / "stopped", "status", "played")
    assert "not running\n" in re.sub(" +", " ", shown).replace(" \n", "\n")
    assert re.search(r"ipo-0000 +unfinished", shown)
    with lease(search.copy, search.name):
        assert re.search(r"ipo-0000 +unfinished", raypo(tmp_path / "stopped", "status", "played"))
        write_json(search.path / LIVE, {"trials": {}})
        assert re.search(r"ipo-0000 +running", raypo(tmp_path / "stopped", "status", "played"))
        commands = Commands(search.ledger)
        commands.close(commands.send("pause", trial=None), "pausing")
        shown = raypo(tmp_path / "stopped", "status", "played")
    assert re.search(r"ipo-0000 +unfinished", shown)
    assert "; paused, raypo resume played goes on" in shown
    assert json.loads(raypo(tmp_path / "stopped", "status", "played", "--json"))["paused"] is True


def test_an_answer_to_a_running_search_is_json_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = new(tmp_path)
    monkeypatch.setattr("raypo.search.commands.wait_for", lambda *_: "2 more trials of every method")
    with lease(search.copy, search.name):
        said = raypo(tmp_path, "extend", "played", "--trials", "2", "--json")
        assert raypo(tmp_path, "extend", "played", "--trials", "2") == "2 more trials of every method\n"
    assert json.loads(said) == {"search": "played", "answer": "2 more trials of every method"}


def test_a_storage_that_is_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a file"
    file.write_text("")
    for storage in (file, file / "below"):
        with pytest.raises(StorageError, match=f"storage: {file} is a file; give a folder"):
            raypo(storage, "status", "played")


def test_a_search_that_rests_is_neither_stopped_nor_paused_as_a_whole(tmp_path: Path) -> None:
    interrupted(tmp_path)
    for word in ("stop", "pause"):
        with pytest.raises(StorageError, match=r"played: does not run; raypo resume played goes on with it"):
            raypo(tmp_path, word, "played")
    with pytest.raises(StorageError, match="dpo-0042"):
        raypo(tmp_path, "stop", "played", "--trial", "dpo-0042")


@pytest.mark.parametrize(
    ("words", "finished"),
    [
        (["resume", "played"], 4),
        (["extend", "played", "--trials", "1"], 6),
        (["resume", "played", "--trial", "ipo-0"], 4),
    ],
)
def test_a_paused_search_that_rests_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], finished: int
) -> None:
    search = new(tmp_path)

    def pause(job: Job) -> None:
        if (job.trial, job.until) == ("ipo-0000", 0.5):
            Commands(search.ledger).send("pause", trial=None)
            Commands(search.ledger).send("pause", trial="ipo-0000")

    assert Played(search, busy=pause).run().states == {"dpo-0000": "finished", "ipo-0000": "paused"}
    ran: list[Played] = []
    monkeypatch.setattr(running, "run", lambda found, *_: ran.append(Played(found).run()))
    raypo(tmp_path, *words)
    assert any(
        said.endswith("going on") or "the search was paused, and all of it goes on" in said for said in ran[0].said
    )
    states = list(ran[0].states.values())
    assert states.count("finished") == finished - ("--trial" not in words)
    assert not Commands(search.ledger).standing().halted


def test_a_search_whose_driver_is_just_leaving_is_extended_once_it_has_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = Played(new(tmp_path)).run().search
    monkeypatch.setattr(common, "ANSWER_S", 0.2)
    monkeypatch.setattr(running, "run", lambda found, *_: Played(found).run())
    leaving = contextlib.ExitStack()
    leaving.enter_context(lease(search.copy, search.name))  # it looks at no command any more
    threading.Timer(1.0, leaving.close).start()
    assert "the driver has the command and is not done with it" in raypo(tmp_path, "extend", "played", "--trials", "1")
    assert [row.state for row in search.ledger.rows()] == ["finished"] * 6
    with lease(search.copy, search.name):
        assert "is not done with it" in raypo(tmp_path, "enqueue", "played", "--method", "dpo"), (
            "who does not run it goes"
        )


def test_what_is_refused_once_the_search_runs_fails_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = interrupted(tmp_path).search
    monkeypatch.setattr(running, "run", lambda found, *_: Played(found).run())
    with pytest.raises(StudyError, match="dpo-0000: is finished"):
        raypo(tmp_path, "resume", "played", "--trial", "dpo-0000", "--json")
    assert [row.state for row in search.ledger.rows()] == ["finished"] * 4, "the rest of it went on"


def test_a_fork_is_looked_at_first_and_lies_beside_the_old_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    kept = tmp_path / "kept"
    Played(create(build({**STUDY, "storage": "elsewhere"}, "played"))).run()
    (tmp_path / "elsewhere").rename(kept)
    with pytest.raises(StudyError, match=r"data.source: no such file or folder, got '\./none.jsonl'"):
        raypo(kept, "fork", "played", "second", "--set", "data.source=./none.jsonl")
    assert not (kept / "second").exists()

    def fails(*_: object) -> None:
        raise ClusterError("preparing failed")

    monkeypatch.setattr(steering, "run", fails)
    with pytest.raises(ClusterError):
        raypo(kept, "fork", "played", "second", "--set", "search.trials=3")
    assert not (kept / "second").exists(), "its name is free for another try"
    monkeypatch.setattr(steering, "run", lambda found, *_: Played(found).run())
    assert "finished trials of played that hold: 4, that do not: 0" in raypo(
        kept, "fork", "played", "second", "--set", "search.trials=3"
    )
    assert len(opened(str(kept), "second").ledger.rows()) == 6
    raypo(kept, "fork", "played", "third", "--set", "storage=apart")
    assert len(opened("apart", "third").ledger.rows()) == 4
    assert not (tmp_path / "elsewhere").exists()


def test_a_fork_that_has_no_trial_of_its_own_keeps_what_it_confirmed_when_its_driver_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Played(new(tmp_path)).run()
    confirmation = {"win_rate": 0.6, "ci_low": 0.5, "ci_high": 0.7, "n": 8, "seeds": 1, "spread": 0.0, "failed": {}}

    def fails(found: SearchFolder, *_: object) -> None:
        write_json(origins_file(found.path), {})  # the preparation has ended
        found.ledger.confirm(found.ledger.row("dpo-0000"), confirmation)
        raise ClusterError("no slot is left")

    monkeypatch.setattr(steering, "run", fails)
    with pytest.raises(ClusterError):
        raypo(tmp_path, "fork", "played", "confirmed", "--set", "confirm.top=1")
    assert opened(str(tmp_path), "confirmed").ledger.row("dpo-0000").confirmation == confirmation


def test_artifacts_are_listed_and_those_out_of_use_removed(tmp_path: Path) -> None:
    store: Store = artifact_store(str(tmp_path))
    store.get_or_make("tokens", {"of": "a test"}, lambda folder: (folder / "ids").write_bytes(b"0" * 1000))
    (listed,) = json.loads(raypo(tmp_path, "artifacts", "--json"))
    assert (listed["kind"], listed["bytes"] >= 1000) == ("tokens", True)
    assert "removed 0 artifacts" in raypo(tmp_path, "artifacts", "--prune-days", "1")
    assert "removed 1 artifacts" in raypo(tmp_path, "artifacts", "--prune-days", "0")
    assert json.loads(raypo(tmp_path, "artifacts", "--json")) == []


def test_pruning_prints_nothing_but_json_and_takes_no_days_to_come(tmp_path: Path) -> None:
    store: Store = artifact_store(str(tmp_path))
    store.get_or_make("tokens", {"of": "a test"}, lambda folder: (folder / "ids").write_bytes(b"0"))
    refused = CliRunner().invoke(app, ["artifacts", "--storage", str(tmp_path), "--prune-days", "-3"])
    assert refused.exit_code == 2
    done = CliRunner().invoke(app, ["artifacts", "--storage", str(tmp_path), "--prune-days", "1", "--json"])
    assert [found["kind"] for found in json.loads(done.stdout)] == ["tokens"]


def test_the_folder_of_a_reward_model_is_printed_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.dump(STUDY))
    monkeypatch.setattr("raypo.search.single.train_reward_model", lambda *_: tmp_path / "model")
    said = raypo(tmp_path, "train", str(file), "--method", "reward_model", "--json")
    assert json.loads(said) == {"model": str(tmp_path / "model")}
