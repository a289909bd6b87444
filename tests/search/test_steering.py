"""Commands from another shell: each is carried out once, whatever the driver is at and however often it dies."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, ValuesView
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from played import STUDY, Played, new

from raypo.errors import ClusterError
from raypo.search import driver, searches
from raypo.search.commands import Command, Commands
from raypo.search.jobs import Job, Outcome
from raypo.search.ledger import Row
from raypo.study import build

ALL = ["dpo-0000", "dpo-0001", "ipo-0000", "ipo-0001"]


def at(name: str, fraction: float, act: Callable[[], object]) -> Callable[[Job], None]:
    """Have something happen while one part of one trial is at work, once."""
    done: list[object] = []

    def busy(job: Job) -> None:
        if job.trial == name and job.until == fraction and not done:
            done.append(act())

    return busy


def test_a_running_trial_is_stopped_and_the_others_go_on(tmp_path: Path) -> None:
    search = new(tmp_path)
    sent = []
    stop = at("ipo-0000", 1.0, lambda: sent.append(Commands(search.ledger).send("stop", trial="ipo-0000")))
    played = Played(search, busy=stop).run()
    assert played.states == {**dict.fromkeys(ALL, "finished"), "ipo-0000": "stopped"}
    assert played.rows["ipo-0000"].cost_s == 1.5, "the half part that led to no evaluation has its price"
    assert played.answer(sent[0]).answer == "ipo-0000 is stopped"
    assert played.answer(sent[0]).accepted


def test_a_paused_trial_goes_on_from_where_it_was(tmp_path: Path) -> None:
    search = new(tmp_path)
    pause = at("dpo-0000", 1.0, lambda: Commands(search.ledger).send("pause", trial="dpo-0000"))
    played = Played(search, busy=pause).run()
    assert played.states == {**dict.fromkeys(ALL, "finished"), "dpo-0000": "paused"}, "nobody waits for it"
    again = Played(search)
    assert again.run().jobs == [], "a paused trial is not taken up by another driver"
    again.send("resume", trial="dpo-0000")
    again.run()
    assert [(job.trial, job.until) for job in again.jobs] == [("dpo-0000", 1.0)]
    assert set(again.states.values()) == {"finished"}


@pytest.mark.parametrize("state", ["failed", "pruned", "stopped"])
def test_an_ended_trial_is_trained_on_to_the_full_schedule_and_counts_once(tmp_path: Path, state: str) -> None:
    search = new(tmp_path, pruner="median" if state == "pruned" else "none", trials=6)

    def outcome(job: Job) -> Outcome | None:
        fails = state == "failed" and job.trial == "dpo-0005" and job.until == 1
        return Outcome(job.trial, "failed", 0.0, reason="the disk is full") if fails else None

    stop = at("dpo-0005", 1.0, lambda: state == "stopped" and Commands(search.ledger).send("stop", trial="dpo-0005"))
    played = Played(search, busy=stop, outcome=outcome).run()
    ended = [name for name, found in played.states.items() if found == state]
    assert ended
    counts = Counter(row.label for row in played.rows.values())
    again = Played(search)
    again.send("resume", trial=ended[0])
    again.run()
    assert [(job.trial, job.until) for job in again.jobs] == [(ended[0], 1.0)]
    assert again.states[ended[0]] == "finished"
    assert [e["fraction"] for e in again.rows[ended[0]].evaluations] == [0.5, 1.0]
    assert Counter(row.label for row in again.rows.values()) == counts, "it is the same trial, not one more"
    assert again.rows[ended[0]].params == played.rows[ended[0]].params


@pytest.mark.parametrize(("kind", "state"), [("stop", "stopped"), ("pause", "paused")])
def test_a_running_trial_may_be_named_without_its_zeros(tmp_path: Path, kind: Any, state: str) -> None:
    search = new(tmp_path)
    sent: list[Command] = []

    def act() -> None:
        sent.append(Commands(search.ledger).send(kind, trial="ipo-0"))
        sent.append(Commands(search.ledger).send("resume", trial="ipo-0000"))

    played = Played(search, busy=at("ipo-0000", 0.5, act)).run()
    assert played.answer(sent[0]).answer == f"ipo-0000 is {state}", "once its slot has let go of it"
    assert str(played.answer(sent[1]).answer).startswith("ipo-0000 goes on"), "one after the other"
    assert played.states["ipo-0000"] == "finished"


def test_a_trial_that_goes_on_may_be_named_by_its_new_number(tmp_path: Path) -> None:
    search = new(tmp_path)
    Played(search, busy=at("ipo-0000", 0.5, lambda: Commands(search.ledger).send("stop", trial="ipo-0000"))).run()
    Commands(search.ledger).send("resume", trial="ipo-0000")
    sent: list[Command] = []
    stop = at("ipo-0000", 1.0, lambda: sent.append(Commands(search.ledger).send("stop", trial="ipo-0002")))
    played = Played(search, busy=stop).run()
    assert played.answer(sent[0]).answer == "ipo-0000 is stopped"
    assert played.states == {**dict.fromkeys(ALL, "finished"), "ipo-0000": "stopped"}


def test_what_is_refused_later_is_said_by_the_driver(tmp_path: Path) -> None:
    search = new(tmp_path)
    Commands(search.ledger).send("add_method", method="dpo", entry={})
    played = Played(search)
    assert played.said == [
        "add-method is refused: dpo: is in this search already; give a second entry of a method its own label"
    ]


def test_nothing_is_enqueued_for_a_dropped_method_before_it_is_taken_in_again(tmp_path: Path) -> None:
    played = Played(new(tmp_path))
    enqueue: dict[str, Any] = {"method": "ipo", "values": {"tau": 0.02}}
    played.send("drop_method", method="ipo")
    refused = played.send("enqueue", **enqueue)
    played.send("add_method", method="ipo", entry={})
    taken = played.send("enqueue", **enqueue)
    played.run()
    assert "ipo: was dropped" in str(played.answer(refused).answer)
    assert "raypo add-method played ipo" in str(played.answer(refused).answer)
    assert not played.answer(refused).accepted
    assert played.answer(taken).accepted
    assert [row.params["tau"] for row in played.rows.values() if row.label == "ipo"].count(0.02) == 1


def test_who_is_told_that_a_trial_goes_on_is_not_told_so_of_one_that_is_just_ended(tmp_path: Path) -> None:
    search = new(tmp_path)
    sent: list[Command] = []

    def act() -> None:
        sent.append(Commands(search.ledger).send("drop_method", method="dpo"))
        sent.append(Commands(search.ledger).send("resume", trial="dpo-0000"))

    played = Played(search, busy=at("dpo-0000", 0.5, act)).run()
    assert "dpo-0000 goes on" in str(played.answer(sent[1]).answer)
    assert played.states == {"dpo-0000": "finished", "ipo-0000": "finished", "ipo-0001": "finished"}


def test_what_cannot_go_on_is_refused(tmp_path: Path) -> None:
    played = Played(new(tmp_path)).run()
    done, unknown = played.send("resume", trial="dpo-0000"), played.send("stop", trial="dpo-0042")
    played.run()
    assert not played.answer(done).accepted
    assert "dpo-0000: is finished" in str(played.answer(done).answer)
    assert "no trial 'dpo-0042'" in str(played.answer(unknown).answer)


def test_the_whole_search_halts_and_goes_on(tmp_path: Path) -> None:
    search = new(tmp_path)
    played = Played(search, busy=at("ipo-0000", 0.5, lambda: Commands(search.ledger).send("pause", trial=None))).run()
    assert played.states == {"dpo-0000": "finished", "ipo-0000": "running"}
    assert Played(search).run().jobs == [], "another driver is halted as well"
    resumed = Played(search)
    resumed.send("resume", trial=None)
    resumed.run()
    assert set(resumed.states.values()) == {"finished"}
    assert [job.trial for job in resumed.jobs][:2] == ["ipo-0000", "ipo-0000"], "what was begun comes first"


@pytest.mark.parametrize(
    ("kind", "arguments", "finished"),
    [("extend", {"trials": 1, "hours": 0.0}, 5), ("resume", {"trial": "ipo-0000"}, 4), ("resume", {"trial": None}, 3)],
)
def test_who_asks_a_paused_search_for_more_ends_the_pause(
    tmp_path: Path, kind: Any, arguments: dict[str, Any], finished: int
) -> None:
    search = new(tmp_path)

    def pause() -> None:
        Commands(search.ledger).send("pause", trial="ipo-0000")
        Commands(search.ledger).send("pause", trial=None)

    played = Played(search, busy=at("ipo-0000", 0.5, pause)).run()
    assert played.states == {"dpo-0000": "finished", "ipo-0000": "paused"}
    command = played.send(kind, **arguments)
    played.run()
    assert list(played.states.values()).count("finished") == finished
    assert str(played.answer(command).answer).endswith("going on" if arguments.get("trial", 0) is None else "goes on")


@pytest.mark.parametrize(
    ("kind", "arguments", "trials"),
    [
        ("extend", {"trials": 1, "hours": 0.0}, 6),
        ("resume", {"trial": None}, 4),
        ("enqueue", {"method": "dpo", "values": {"beta": 0.5}}, 5),
        ("add_method", {"method": "orpo", "entry": {"beta": 0.1}}, 6),
    ],
)
def test_what_is_asked_of_a_search_that_ends_is_done_by_the_next_driver(
    tmp_path: Path, kind: Any, arguments: dict[str, Any], trials: int
) -> None:
    search = new(tmp_path)
    sent: list[Command] = []

    def act() -> None:
        Commands(search.ledger).send("stop", trial=None)
        sent.append(Commands(search.ledger).send(kind, **arguments))

    played = Played(search, busy=at("dpo-0000", 1.0, act)).run()
    assert played.states == {"dpo-0000": "running"}
    assert played.answer(sent[0]).answer is None, "nobody is told that it goes on"
    again = Played(search).run()
    assert again.answer(sent[0]).accepted
    assert set(again.states.values()) == {"finished"}
    assert len(again.states) == trials


def test_what_a_search_that_ends_leaves_is_done_before_what_was_asked_later(tmp_path: Path) -> None:
    search = new(tmp_path)
    Played(search, busy=at("dpo-0000", 0.5, lambda: Commands(search.ledger).send("stop", trial="dpo-0000"))).run()
    ending = Played(search)
    ending.steering.stop()
    resume, stop = (ending.send(kind, trial="dpo-0000") for kind in ("resume", "stop"))
    ending.run()
    assert [ending.answer(command).answer for command in (resume, stop)] == [None, None]
    assert Played(search).run().states["dpo-0000"] == "stopped"


def test_stop_ends_the_driver_and_not_the_next_one(tmp_path: Path) -> None:
    search = new(tmp_path)
    stop = at("dpo-0000", 1.0, lambda: Commands(search.ledger).send("stop", trial=None))
    played = Played(search, busy=stop).run()
    assert played.states == {"dpo-0000": "running"}
    assert played.conductor.stopping
    assert set(Played(search).run().states.values()) == {"finished"}


def test_without_a_slot_left_the_search_ends_and_says_so(tmp_path: Path) -> None:
    class Bare(Played):
        def check(self) -> None:
            raise ClusterError("no slot is left")

    class Shared(dict[str, Row]):
        """The running trials, which Tune's thread changes at any moment that the lock is free."""

        def values(self) -> ValuesView[Row]:
            if not bare.conductor.lock._is_owned():  # type: ignore[attr-defined]
                raise RuntimeError("dictionary changed size during iteration")
            return super().values()

    search = new(tmp_path)
    bare = Bare(search)
    config = bare.conductor.next("t0")
    assert isinstance(config, dict)
    bare.conductor.running = Shared(bare.conductor.running)

    def follow() -> None:
        deadline = time.monotonic() + 10
        with bare.steering.following(search.path / "live.json"):
            while "dpo-0000" not in bare.cancelled and time.monotonic() < deadline:
                time.sleep(0.05)

    with pytest.raises(ClusterError, match="no slot is left"):
        follow()
    assert bare.conductor.stopping
    assert bare.conductor.deserted, "else Tune would wait for trials that nobody ends"
    assert "dpo-0000" in bare.cancelled, "else the trial would wait for a slot for ever"


def test_what_is_asked_once_a_search_ends_is_left_to_who_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = new(tmp_path)
    played = Played(search).run()
    monkeypatch.setattr(driver.tune, "run", lambda *_: None)
    monkeypatch.setattr(driver, "finals", lambda *_: None)
    watcher: Any = SimpleNamespace(stage=print)
    assert not driver._round(played.conductor, search, played, played.steering, watcher)  # type: ignore[arg-type]
    command = played.send("extend", trials=1, hours=0.0)
    played.steering.tick()
    assert played.answer(command).answer is None, "it would run nothing any more"
    later = Played(search).run()
    assert later.answer(command).accepted
    assert len(later.states) == 6


@pytest.mark.parametrize("kind", ["stop", "pause"])
def test_what_was_to_halt_a_driver_that_died_does_not_halt_the_next(tmp_path: Path, kind: str) -> None:
    search = new(tmp_path)
    command = Commands(search.ledger).send(kind, trial=None)
    later = Played(search, since=time.time())
    assert set(later.run().states.values()) == {"finished"}
    answer = later.answer(command)
    assert (answer.answer, answer.accepted) == ("its driver had ended already", False)


def test_enqueued_values_are_tried_next_as_a_trial_more(tmp_path: Path) -> None:
    search = new(tmp_path)
    values = {"method": "ipo", "values": {"tau": 0.02}}
    played = Played(search, busy=at("dpo-0000", 0.5, lambda: Commands(search.ledger).send("enqueue", **values))).run()
    assert Counter(row.label for row in played.rows.values()) == {"dpo": 2, "ipo": 3}
    assert played.rows["ipo-0000"].params == {"tau": 0.02}
    assert [job.trial for job in played.jobs][2] == "ipo-0000"


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"tau": 5.0}, "outside of the axis"),
        ({"taw": 0.1}, "did you mean 'tau'"),
        ({"lr": 1.0}, "it is 0.0001 in every trial"),
    ],
)
def test_values_that_no_trial_can_have_are_refused(tmp_path: Path, values: dict[str, float], why: str) -> None:
    played = Played(new(tmp_path))
    command = played.send("enqueue", method="ipo", values=values)
    assert Counter(row.label for row in played.run().rows.values()) == {"dpo": 2, "ipo": 2}
    assert why in str(played.answer(command).answer)


def test_a_search_is_extended_while_it_runs_and_after(tmp_path: Path) -> None:
    search = new(tmp_path)
    Played(search, busy=at("dpo-0000", 0.5, lambda: searches.extend(search, 1))).run()
    assert len(search.ledger.rows()) == 6
    searches.extend(search, 2)
    assert Counter(row.label for row in Played(search).run().rows.values()) == {"dpo": 5, "ipo": 5}


def test_a_method_joins_and_another_is_dropped(tmp_path: Path) -> None:
    search = new(tmp_path)
    entry = {"beta": {"log_uniform": [0.1, 1.0]}, "method": "simpo"}

    def act() -> None:
        Commands(search.ledger).send("add_method", method="simpo", entry=entry)
        Commands(search.ledger).send("drop_method", method="ipo")

    played = Played(search, busy=at("ipo-0000", 1.0, act)).run()
    assert Counter(row.label for row in played.rows.values()) == {"dpo": 2, "ipo": 1, "simpo": 2}
    assert played.states["ipo-0000"] == "stopped"
    assert played.rows["ipo-0000"].reason == "its method was dropped"
    assert {job.revision for job in played.jobs if job.label == "simpo"} == {1}, "slots load the study that has it"
    assert list(search.study().methods) == ["dpo", "ipo", "simpo"]
    assert (search.path / "revisions" / "1.json").exists()
    assert Played(search).run().jobs == [], "another driver knows both"


def test_a_method_that_is_dropped_and_added_again_while_its_trial_is_at_work_stays(tmp_path: Path) -> None:
    search = new(tmp_path, trials=3)
    sent: list[Command] = []

    def act() -> None:
        sent.append(Commands(search.ledger).send("drop_method", method="ipo"))
        sent.append(Commands(search.ledger).send("pause", trial="dpo-0000"))
        played.steering.tick()
        assert played.conductor.dropped == {"ipo"}, "whatever is answered meanwhile"
        sent.append(Commands(search.ledger).send("add_method", method="ipo", entry={}))
        sent.append(Commands(search.ledger).send("enqueue", method="ipo", values={"tau": 0.02}))

    played = Played(search, busy=at("ipo-0000", 0.5, act))
    played.run()
    answers = [played.answer(command).answer for command in sent]
    assert answers[0] == "ipo gets no more trials"
    assert answers[1:] == ["dpo-0000 is finished", "ipo joins the search", "ipo-0001 is next of ipo"]
    assert played.said == [answers[1], answers[0], *answers[2:]]
    assert Counter(row.state for row in played.rows.values() if row.label == "ipo") == {"stopped": 1, "finished": 3}


def test_a_method_whose_driver_died_while_it_joined_joins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = new(tmp_path)
    added = build({**STUDY, "methods": {**STUDY["methods"], "simpo": {"beta": {"log_uniform": [0.1, 1.0]}}}}, "added")
    entry = added.written()["methods"]["simpo"]
    command = Commands(search.ledger).send("add_method", method="simpo", entry=entry)
    with monkeypatch.context() as dying:
        dying.setattr(Commands, "close", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            Played(search)
    assert "simpo" in search.study().methods
    played = Played(search).run()
    assert played.answer(command).answer == "simpo joins the search"
    assert played.answer(command).accepted
    assert Counter(row.label for row in played.rows.values()) == {"dpo": 2, "ipo": 2, "simpo": 2}


def test_a_driver_that_dies_before_it_answers_leaves_nothing_to_do_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = new(tmp_path)
    Played(search, busy=at("dpo-0000", 1.0, lambda: Commands(search.ledger).send("stop", trial="dpo-0000"))).run()
    commands = Commands(search.ledger)
    commands.send("resume", trial="dpo-0000")
    commands.send("enqueue", method="dpo", values={"beta": 0.5})
    commands.send("enqueue", method="dpo", values={"beta": 0.5})
    searches.extend(search, 1)
    with monkeypatch.context() as dying:
        dying.setattr(Commands, "close", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                Played(search)
    played = Played(search).run()
    assert Counter(row.label for row in played.rows.values()) == {"dpo": 5, "ipo": 3}
    assert set(played.states.values()) == {"finished"}
    assert [row.params["beta"] for row in played.rows.values() if row.label == "dpo"].count(0.5) == 2
    assert Commands(search.ledger).open() == []


def test_published_points_are_tried_first_once(tmp_path: Path) -> None:
    priors = [{"beta": 0.05, "lr": 5e-7}, {"beta": 7.0}, {"beta": 0.5}]
    methods = {**STUDY["methods"], "dpo": {**STUDY["methods"]["dpo"], "priors": priors}}
    wanted = {**STUDY["search"], "priors": True, "trials": 3}
    study = build({**STUDY, "methods": methods, "search": wanted, "storage": str(tmp_path)}, "played")
    search = searches.create(study)
    played = Played(search, study)
    assert "1 published points lie outside of this search: dpo.beta: got 7.0" in played.said[0]
    Played(search, study)
    played.run()
    assert [row.params["beta"] for row in played.rows.values() if row.label == "dpo"][:2] == [0.05, 0.5]
    assert Counter(row.label for row in played.rows.values()) == {"dpo": 3, "ipo": 3}
    assert [job.label for job in played.jobs[:8:2]] == ["dpo", "ipo", "dpo", "ipo"], "methods advance evenly"


def test_an_extension_goes_on_with_published_points(tmp_path: Path) -> None:
    priors = [{"beta": 0.05}, {"beta": 0.1}, {"beta": 0.2}, {"beta": 0.5}]
    methods = {**STUDY["methods"], "dpo": {**STUDY["methods"]["dpo"], "priors": priors}}
    wanted = {**STUDY["search"], "priors": True, "trials": 2}
    study = build({**STUDY, "methods": methods, "search": wanted, "storage": str(tmp_path)}, "played")
    search = searches.create(study)
    Played(search, study).run()
    commands = Commands(search.ledger)
    commands.send("extend", trials=1, hours=0.0)
    commands.send("enqueue", method="dpo", values={"beta": 0.3})
    played = Played(search, study).run()
    assert [row.params["beta"] for row in played.rows.values() if row.label == "dpo"] == [0.05, 0.1, 0.2, 0.3]
    assert Counter(row.label for row in played.rows.values()) == {"dpo": 4, "ipo": 3}


def test_a_trial_that_hangs_does_not_let_the_other_method_run_away(tmp_path: Path) -> None:
    search = new(tmp_path, trials=20, sampler="tpe")
    conductor = Played(search).conductor
    assert conductor.next("hangs")["jobs"][0]["trial"] == "dpo-0000"
    number = 0
    while isinstance(config := conductor.next(f"t{number}"), dict):
        for rung, job in enumerate(config["jobs"]):
            figures = {"objective": 0.5, "win_rate": 0.5}
            state = "finished" if rung else "running"
            conductor.heard(f"t{number}", rung, Outcome(job["trial"], state, job["until"], 1, figures, 1.0))
        conductor.left(f"t{number}", error=False)
        number += 1
    assert config is None
    counts = Counter(row.label for row in search.ledger.rows())
    assert 0 < counts["ipo"] - counts["dpo"] <= 3
