"""A budget is kept, and what it buys can be compared."""

from __future__ import annotations

import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from played import Played, new, study_in

from raypo.errors import StudyError
from raypo.search import searches, wall_clock
from raypo.search.budget import Accounts, Budget, Flight, Position
from raypo.search.commands import Commands
from raypo.search.forking import fork
from raypo.search.jobs import Job, Outcome
from raypo.search.ledger import Row
from raypo.study import build


def cost(job: Job) -> float:
    """A trial of dpo costs 72 device-seconds, one of ipo half of that."""
    return 36.0 if job.label == "dpo" else 18.0


def finished(name: str, label: str, cost_s: float) -> Row:
    return Row(name, label, 0, "finished", {}, 0, ({"cost_s": cost_s},), cost_s=cost_s)


def spent(played: Played, label: str | None = None) -> float:
    return sum(row.cost_s for row in played.rows.values() if label in (None, row.label))


@pytest.mark.parametrize("hours", [0.1, 0.3, 0.33])
def test_device_hours_are_kept_and_methods_get_equal_trials(tmp_path: Path, hours: float) -> None:
    played = Played(new(tmp_path, budget={"gpu_hours": hours}, trials=None), cost=cost).run()
    counts = Counter(row.label for row in played.rows.values())
    rounds = int(hours * 3600 // (72 + 36))
    assert counts == {"dpo": rounds, "ipo": rounds}, "no round begins that cannot be finished for every method"
    assert set(played.states.values()) == {"finished"}
    assert spent(played) <= hours * 3600


def test_equal_device_hours_give_the_cheaper_method_more_trials(tmp_path: Path) -> None:
    played = Played(new(tmp_path, budget={"gpu_hours": 0.4}, fair="gpu_hours", trials=None), cost=cost).run()
    counts = Counter(row.label for row in played.rows.values())
    assert counts == {"dpo": 10, "ipo": 20}
    assert spent(played, "dpo") == spent(played, "ipo") == 720
    so_far = {"dpo": 0.0, "ipo": 0.0}
    for job in played.jobs:
        so_far[job.label] += cost(job)
        assert abs(so_far["dpo"] - so_far["ipo"]) <= 72, "and they advance evenly"


def test_a_trial_out_of_line_is_stopped_at_the_limit(tmp_path: Path) -> None:
    """The third round's dpo needs far more than the two before it did."""

    def odd(job: Job) -> float:
        return 400.0 if job.trial == "dpo-0002" and job.until == 1 else cost(job)

    limit = 3 * (72 + 36)
    played = Played(new(tmp_path, budget={"gpu_hours": limit / 3600}, trials=None), cost=odd).run()
    assert played.states["dpo-0002"] == "stopped"
    assert played.rows["dpo-0002"].reason == "the budget is spent"
    assert {state for name, state in played.states.items() if name != "dpo-0002"} == {"finished"}
    assert [row.label for row in played.rows.values() if row.state == "finished"].count("dpo") == 2


def test_more_hours_take_up_what_the_budget_ended(tmp_path: Path) -> None:
    search = new(tmp_path, budget={"gpu_hours": 0.01}, trials=1)
    assert Played(search, cost=cost).run().states == {"dpo-0000": "stopped"}
    searches.extend(search, hours=0.1)
    again = Played(search, cost=cost).run()
    assert again.states == {"dpo-0000": "finished", "ipo-0000": "finished"}
    assert again.jobs[0].trial == "dpo-0000"


def test_more_hours_reach_a_trial_that_the_budget_is_just_ending(tmp_path: Path) -> None:
    search = new(tmp_path, budget={"gpu_hours": 100 / 3600}, trials=1)
    told: list[Job] = []

    def busy(job: Job) -> None:
        if (job.trial, job.until) == ("dpo-0000", 1.0) and not told:
            told.append(job)
            played.steering.tick()
            assert played.conductor.leaving == {"dpo-0000": ("stopped", "the budget is spent")}
            searches.extend(search, hours=0.1)

    def outcome(job: Job) -> Outcome | None:
        """Its slot lets go of it all the same, for it was told to before."""
        return Outcome(job.trial, "stopped", 0.0, cost_s=40.0) if told and len(played.jobs) == 2 else None

    played = Played(search, cost=lambda _: 80.0, busy=busy, outcome=outcome)
    played.run()
    assert played.states == {"dpo-0000": "finished", "ipo-0000": "finished"}
    assert [job.trial for job in played.jobs].count("dpo-0000") == 3


def test_more_hours_take_up_nothing_of_a_dropped_method(tmp_path: Path) -> None:
    search = new(tmp_path, budget={"gpu_hours": 0.01}, trials=1)
    assert Played(search, cost=cost).run().states == {"dpo-0000": "stopped"}
    again = Played(search, cost=cost)
    again.send("drop_method", method="dpo")
    searches.extend(search, hours=0.1)
    assert again.run().states == {"dpo-0000": "stopped", "ipo-0000": "finished"}


@pytest.mark.parametrize("kind", ["stop", "pause"])
def test_a_trial_does_not_go_on_where_the_budget_would_end_it_at_once(tmp_path: Path, kind: Any) -> None:
    search = new(tmp_path, budget={"gpu_hours": 0.01}, trials=1)

    def leave(job: Job) -> None:
        if job.trial == "dpo-0000" and job.until == 1:
            Commands(search.ledger).send(kind, trial="dpo-0000")

    played = Played(search, cost=lambda _: 20.0, busy=leave).run()
    assert played.conductor.position.over
    again = Played(search)
    refused = again.send("resume", trial="dpo-0000")
    before = again.run().states
    assert "the budget is spent, so it would end at once; raypo extend played --hours H" in str(
        again.answer(refused).answer
    )
    assert (again.jobs, again.states) == ([], before)
    again.send("extend", trials=0, hours=0.01)
    again.send("resume", trial="dpo-0000")
    assert again.run().states["dpo-0000"] == "finished"


def test_trials_are_not_added_where_the_budget_says_how_many(tmp_path: Path) -> None:
    played = Played(new(tmp_path, budget={"gpu_hours": 0.01}, trials=None))
    command = searches.extend(played.search, 8)
    played.steering.tick()
    refused = played.answer(command)
    assert not refused.accepted
    assert "--trials: the budget of this search decides how many trials there are" in str(refused.answer)
    assert "raypo extend NAME --hours H" in str(refused.answer)


def test_trials_that_the_budget_has_no_room_for_are_accepted_with_a_word_of_it(tmp_path: Path) -> None:
    search = new(tmp_path, budget={"gpu_hours": 0.01}, trials=1)
    Played(search, cost=cost).run()
    again = Played(search, cost=cost)
    sent = [searches.extend(search, 1), again.send("enqueue", method="ipo", values={"tau": 0.02})]
    again.steering.tick()
    for command in sent:
        assert str(again.answer(command).answer).endswith(
            "once the budget has room: raypo extend played --hours H makes some"
        )
    searches.extend(search, hours=1.0)
    assert Counter(row.label for row in again.run().rows.values()) == {"dpo": 2, "ipo": 3}


def test_a_job_that_ends_while_the_slots_are_asked_costs_once(tmp_path: Path) -> None:
    played = Played(new(tmp_path, budget={"gpu_hours": 200 / 3600}, trials=None))
    conductor = played.conductor
    config = conductor.next("t0")
    assert isinstance(config, dict)

    def view() -> dict[str, dict[str, Any]]:
        seen = {"slot": {"trial": "dpo-0000", "elapsed_s": 110.0, "pulse": None}}
        conductor.heard("t0", 0, Outcome("dpo-0000", "running", 0.5, 1, {"objective": 0.5}, 110.0))
        return seen

    played.view = view  # type: ignore[method-assign]
    played.steering.tick()
    assert conductor.position.spent_s == 110
    assert conductor.leaving == {}


def test_hours_of_the_clock_count_over_drivers(tmp_path: Path) -> None:
    search = new(tmp_path, budget={"wall_hours": 3 / 3600}, trials=None)
    began = time.monotonic()

    def work(_: Job) -> float:
        time.sleep(0.1)
        return 0.1

    played = Played(search, cost=work)
    with played.steering.following(search.path / "live.json"):
        played.run()
    assert 1.2 <= time.monotonic() - began <= 3.5
    assert len(played.states) > 2
    again = Played(search)
    again.steering.tick()
    assert again.conductor.wall_s >= 1.2, "the first driver's hours are gone"
    assert len(again.run().states) <= len(played.states) + 4


def test_a_pause_takes_nothing_of_the_hours_of_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(wall_clock.time, "monotonic", lambda: now[0])
    search = new(tmp_path, budget={"wall_hours": 0.01}, trials=1)

    def busy(_: Job) -> None:
        now[0] += 2.0
        if not Commands(search.ledger).all():
            Commands(search.ledger).send("pause", trial=None)

    played = Played(search, busy=busy).run()
    for _ in range(3):
        now[0] += 3600.0
        played.steering.tick()
    assert (played.states, played.conductor.wall_s) == ({"dpo-0000": "running"}, 2.0)
    played.send("resume", trial=None)
    with played.steering.clock.off():
        now[0] += 3600.0
    assert set(played.run().states.values()) == {"finished"}


def test_hours_of_the_clock_are_not_taken_up_by_trials_of_another_search(tmp_path: Path) -> None:
    Played(old := new(tmp_path), cost=cost).run()
    hours = ["search.trials=null", "search.budget.wall_hours=0.06", "search.fair=gpu_hours"]
    made = fork(old, "new", hours)
    played = Played(made.search, cost=cost).run()
    counts = Counter(row.label for row in played.rows.values() if row.name not in made.taken.values())
    assert counts == {"dpo": 1, "ipo": 3}, "108 s of the 216 each"


def position(budget: Budget, *, running: tuple[Flight, ...] = (), wall_s: float = 0.0) -> Position:
    accounts = Accounts([finished("dpo-0000", "dpo", 60.0), finished("dpo-0001", "dpo", 100.0)])
    return Position(budget, accounts, running, {"dpo": 2}, wall_s)


def test_what_running_trials_still_need_is_spoken_for() -> None:
    budget = Budget(device_s=320.0)
    assert position(budget).may_start("dpo"), "the median of 60 and 100 fits into 160"
    one = (Flight("dpo", 20.0, 10.0),)
    assert not position(budget, running=(*one, *one)).may_start("dpo"), "two more need 50 each of the 140 that are left"


def test_no_trial_begins_in_the_place_of_one_that_the_budget_ended() -> None:
    """Where none has finished, nothing is known of what it would cost."""
    accounts = Accounts([Row("dpo-0000", "dpo", 0, "stopped", {}, 0, cost_s=97.0)])
    budget, at_work = Budget(device_s=100.0, devices=4), (Flight("dpo", 0.0, 0.1),) * 4
    assert Position(budget, accounts, at_work, {"dpo": 5}).over
    assert not Position(budget, accounts, (), {"dpo": 5}).may_start("dpo")


def test_a_trial_has_to_end_before_the_clock_does() -> None:
    budget = Budget(wall_s=100.0, devices=4, workers=2)
    assert position(budget, wall_s=55.0).may_start("dpo"), "80 device-seconds are 40 s on two workers"
    assert not position(budget, wall_s=65.0).may_start("dpo")


@pytest.mark.parametrize(
    ("search", "why"),
    [
        ({"budget": {}}, "needs either gpu_hours or wall_hours"),
        ({"budget": {"gpu_hours": 1, "wall_hours": 1}}, "needs either gpu_hours or wall_hours"),
        ({"budget": {"gpu_hours": -1}}, "search.budget.gpu_hours"),
        ({"trials": None}, "needs trials or a budget"),
        ({"fair": "gpu_hours"}, "shares out a budget"),
    ],
)
def test_impossible_budgets_are_refused(tmp_path: Path, search: dict[str, object], why: str) -> None:
    with pytest.raises(StudyError, match=re.escape(why)):
        study_in(tmp_path, **search)


def test_with_a_budget_and_no_count_there_is_no_count(tmp_path: Path) -> None:
    study = study_in(tmp_path)
    written = study.written()
    written["search"] = {"budget": {"gpu_hours": 1.0}}
    assert build(written, "w").search.trials is None
    assert build(build(written, "w").written(), "w").search.trials is None
