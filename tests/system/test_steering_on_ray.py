"""Commands and budgets on a real Ray: slots let go of trials, learn of new methods, and stop in time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from stubbed import STUB, Silent, run_stub

from raypo.search import driver, finals, preparing, searches
from raypo.search.cluster import Cluster
from raypo.search.commands import Commands
from raypo.search.folders import LIVE, contents_file
from raypo.search.jobs import Job, Outcome
from raypo.search.reading import read_results
from raypo.search.searches import SearchFolder
from raypo.study import Study, build

pytestmark = pytest.mark.usefixtures("local_ray")


class Acting(Silent):
    """Does something when an event comes for the first time."""

    def __init__(self, when: tuple[str, str], act: Callable[[], object]) -> None:
        super().__init__()
        self._when, self._act = when, act

    def event(self, kind: str, row: object) -> None:
        super().event(kind, row)
        if self.events[-1] == self._when and self.events.count(self._when) == 1:
            self._act()


def steps_done(search: SearchFolder, trial: str) -> list[int]:
    return [int(line) for line in (search.path / "trials" / trial / "work.log").read_text().splitlines()]


def test_trials_leave_and_come_back_and_a_method_joins(stub_study: Study) -> None:
    search = searches.create(stub_study)
    (search.path / "step_s").write_text("0.3")
    commands = Commands(search.ledger)

    def act() -> None:
        commands.send("pause", trial="dpo-0000")
        entry = {"method": "dpo", "beta": {"log_uniform": [0.1, 1.0]}}
        commands.send("add_method", method="strong", entry=entry)
        (search.path / "step_s").write_text("0.02")  # for the jobs that know of the method

    driver.run(search, stub_study, Acting(("evaluated", "dpo-0000"), act), bench="stub_bench:StubBench")
    states = {trial.name: trial.state for trial in read_results(search).trials}
    assert [c.answer for c in commands.all()] == ["dpo-0000 is paused", "strong joins the search"]
    assert states.pop("dpo-0000") == "paused"
    assert states == dict.fromkeys(["dpo-0001", "simpo-0000", "simpo-0001", "strong-0000", "strong-0001"], "finished")
    paused_at = len(steps_done(search, "dpo-0000"))
    assert 4 <= paused_at < 12
    commands.send("resume", trial="dpo-0000")
    results, watcher = run_stub(search, search.study())
    assert {trial.state for trial in results.trials} == {"finished"}
    assert {name for _, name in watcher.events} == {"dpo-0000"}, "nothing else runs again"
    assert steps_done(search, "dpo-0000") == list(range(12)), "it goes on at the step at which it was paused"


def test_a_search_that_is_stopped_while_it_prepares_does_not_wait_for_that(
    stub_study: Study, capfd: pytest.CaptureFixture[str]
) -> None:
    search = searches.create(stub_study)
    (search.path / "prepare_s").write_text("10")
    (search.path / LIVE).write_text("what a killed driver left")
    contents_file(search.path).write_text('{"data.source": "of a preparation that came to no trial"}')
    times: list[float] = []

    class Stopping(Silent):
        def started(self, *_: object) -> None:
            assert not (search.path / LIVE).exists(), "no trial is at work yet"
            assert not contents_file(search.path).exists(), "no trial was trained on it"
            Commands(search.ledger).send("stop", trial=None)
            times.append(time.monotonic())

        def running(self, *_: object) -> None:
            times.append(time.monotonic())

    driver.run(search, stub_study, Stopping(), bench="stub_bench:StubBench")
    assert times[1] - times[0] < 9
    time.sleep(2)  # Ray's complaints are late
    assert "SlotPool" not in "".join(capfd.readouterr())
    assert [str(command.answer).split(":")[0] for command in Commands(search.ledger).all()] == ["stopping"]
    assert search.ledger.rows() == []


def test_a_pause_is_answered_while_the_search_prepares(stub_study: Study) -> None:
    search = searches.create(stub_study)
    (search.path / "prepare_s").write_text("2")
    answers: list[str | None] = []

    class Pausing(Silent):
        def started(self, *_: object) -> None:
            Commands(search.ledger).send("pause", trial=None)

        def running(self, *_: object) -> None:
            answers.extend(command.answer for command in Commands(search.ledger).all())
            Commands(search.ledger).send("stop", trial=None)

    driver.run(search, stub_study, Pausing(), bench="stub_bench:StubBench")
    assert answers == [preparing.PAUSED_EARLY]
    assert Commands(search.ledger).standing().halted
    assert search.ledger.rows() == []


@ray.remote(num_cpus=0)
class Measuring:
    """A pool whose slots take long for a benchmark."""

    async def submit(self, job: Job) -> Outcome:
        await asyncio.sleep(120)
        return Outcome(job.trial, "finished", 1.0)

    async def cancel(self, trial: str) -> None: ...
    async def forget(self, trial: str) -> None: ...


def test_a_search_that_is_stopped_while_it_does_benchmarks_does_not_wait_for_them() -> None:
    pool: Any = Measuring.remote()
    conductor: Any = SimpleNamespace(stopping=False, halted=False)
    job = Job("dpo-0000", "dpo", {}, 0, 1.0).benchmarked()
    outcomes = finals.done(conductor, Cluster(pool, "", []), None, [job])  # type: ignore[arg-type]
    threading.Timer(0.5, lambda: setattr(conductor, "stopping", True)).start()
    began = time.monotonic()
    with pytest.raises(finals.LeftForLater):
        list(outcomes)
    assert time.monotonic() - began < 60
    ray.kill(pool)


@pytest.mark.slow
def test_a_stopped_search_goes_on(stub_study: Study) -> None:
    search = searches.create(stub_study)
    (search.path / "step_s").write_text("0.2")
    watcher = Acting(("evaluated", "dpo-0000"), lambda: Commands(search.ledger).send("stop", trial=None))
    driver.run(search, stub_study, watcher, bench="stub_bench:StubBench")
    assert Counter(row.state for row in search.ledger.rows())["running"] >= 1
    results, _ = run_stub(search, stub_study)
    assert Counter(trial.state for trial in results.trials) == {"finished": 4}
    assert steps_done(search, "dpo-0000") == list(range(12))


@pytest.mark.slow
def test_a_budget_is_kept_within_two_per_cent(tmp_path: Path) -> None:
    budget_s = 100.0
    wanted = {"sampler": "random", "pruner": "none", "budget": {"gpu_hours": budget_s / 3600}}
    study = build({**STUB, "search": wanted, "storage": str(tmp_path)}, "stub")
    results, _ = run_stub(searches.create(study), study)
    assert 0.9 * budget_s <= sum(trial.cost_s for trial in results.trials) <= 1.02 * budget_s
    finished = Counter(trial.method for trial in results.trials if trial.state == "finished")
    assert finished["dpo"] >= 2
    assert abs(finished["dpo"] - finished["simpo"]) <= 2, "those that were running at the limit may be missing"
    assert {trial.state for trial in results.trials} <= {"finished", "stopped"}
