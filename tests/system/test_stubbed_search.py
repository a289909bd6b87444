"""Whole searches with stubbed training: ledger, Tune, pool, warm slots, resume, faults."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import ray
from stubbed import STUB, Silent, run_stub

from raypo.errors import ClusterError, Hindrance, StorageError
from raypo.search import cluster, driver, searches
from raypo.search.cluster import Cluster
from raypo.search.commands import Commands
from raypo.search.in_vain import LEAST
from raypo.search.jobs import Job, Outcome
from raypo.search.joining import NAMESPACE
from raypo.search.lease import lease
from raypo.search.ledger import trial_name
from raypo.search.pool import SlotPool
from raypo.search.results import SearchResults
from raypo.search.samplers import make_sampler
from raypo.search.searches import discard_if_empty
from raypo.search.serving import SlotPlan
from raypo.search.slots import Slot
from raypo.study import Study, build

pytestmark = pytest.mark.usefixtures("local_ray")


def steps_done(folder: Path, trial: str) -> Counter[int]:
    return Counter(int(line) for line in (folder / "trials" / trial / "work.log").read_text().splitlines())


def test_every_trial_runs_once_and_the_best_wins(stub_study: Study) -> None:
    results, watcher = run_stub(searches.create(stub_study), stub_study)
    assert sorted(t.name for t in results.trials) == ["dpo-0000", "dpo-0001", "simpo-0000", "simpo-0001"]
    for trial in results.trials:
        assert trial.state == "finished"
        assert [round(e.fraction, 2) for e in trial.history] == [0.33, 0.67, 1.0]
        assert set(steps_done(results.folder, trial.name).values()) == {1}
    assert Counter(kind for kind, _ in watcher.events) == {"drawn": 4, "evaluated": 12, "ended": 4}
    assert not (results.folder / "ray").exists()
    assert not (results.folder / "driver.lease").exists()


@pytest.fixture(scope="module")
def promising(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[SearchResults, list[float]]:  # noqa: ARG001
    """A search that repeats its promising trials, and the CPUs that were free while it ran."""
    search = {**STUB["search"], "trials": 4, "repeats": {"seeds": 2, "promising_only": True}}
    wanted = {"storage": str(tmp_path_factory.mktemp("promising")), "search": search, "resources": {"workers": 1}}
    study = build({**STUB, **wanted}, "stub")
    free: list[float] = []
    with ThreadPoolExecutor(1) as threads:
        run = threads.submit(run_stub, searches.create(study), study)
        while not run.done():
            free.append(ray.available_resources().get("CPU", 0.0))
            time.sleep(0.02)
        return run.result()[0], free


def test_a_search_whose_promising_trials_alone_are_repeated_runs_to_its_end(
    promising: tuple[SearchResults, list[float]],
) -> None:
    results, _ = promising
    assert Counter(trial.state for trial in results.trials) == {"finished": 8}
    repeated = {path.parent.name.partition(".")[0] for path in results.folder.glob("trials/*.r1/work.log")}
    assert 0 < len(repeated) < 8, "some lead their method when they end, and some do not"


def test_waiting_trials_leave_the_cluster_to_the_slots(promising: tuple[SearchResults, list[float]]) -> None:
    _, free = promising
    assert min(free) < max(free), "its slots were at work"
    assert [cpus for cpus in free if cpus != int(cpus)] == []


def test_a_name_is_used_once(stub_study: Study) -> None:
    searches.create(stub_study)
    with pytest.raises(StorageError, match=r"raypo resume stub.*raypo extend stub"):
        searches.create(stub_study)


def test_two_drivers_on_one_search_are_refused(stub_study: Study) -> None:
    search = searches.create(stub_study)
    with lease(search.copy, search.name), pytest.raises(StorageError, match="a driver runs it already"):
        run_stub(search, stub_study)


def test_a_study_whose_model_cannot_be_had_leaves_its_name_to_the_mended_one(stub_study: Study) -> None:
    one = stub_study.resources.model_copy(update={"workers": 1})
    model = stub_study.model.model_copy(update={"path": "nobody/nothing"})
    faulty = stub_study.model_copy(update={"model": model, "resources": one})
    search = searches.create(faulty)
    with pytest.raises(ClusterError, match=r"preparing failed: .*nobody/nothing"):
        driver.run(search, faulty, Silent())
    discard_if_empty(search)
    assert searches.create(stub_study).study().model.path == "quickstart"


def test_faults_stay_with_their_trial_and_a_dead_worker_costs_little(stub_study: Study) -> None:
    search = searches.create(stub_study)
    faults = search.path / "faults"
    faults.mkdir()
    (faults / "dpo-0000").write_text("raise")
    (faults / "simpo-0000").write_text("diverge")
    (faults / "dpo-0001").write_text("exit once")
    (faults / "simpo-0001").write_text("memory once")
    results, _ = run_stub(search, stub_study)
    by_name = {trial.name: trial for trial in results.trials}
    assert by_name["dpo-0000"].state == "failed"
    assert "ValueError: asked to raise" in str(by_name["dpo-0000"].reason)
    assert (by_name["simpo-0000"].state, by_name["simpo-0000"].reason) == ("diverged", "asked to diverge")
    for name, what in {"dpo-0001": "its worker died in mid-job", "simpo-0001": "it ran out of memory"}.items():
        assert by_name[name].state == "finished", f"{what} and it went on"
        repeated = {step: n for step, n in steps_done(search.path, name).items() if n > 1}
        assert set(repeated) <= {2, 3}, "only what came after the last checkpoint is done again"


def test_what_no_trial_can_do_without_stops_the_search_until_it_is_there_again(stub_study: Study) -> None:
    search = searches.create(stub_study)
    (search.path / "faults").mkdir()
    fault = search.path / "faults" / "simpo-0000"
    fault.write_text("no room")
    with pytest.raises(Hindrance, match=r"^asked to find no room\nstub has stopped.* raypo resume stub goes on"):
        run_stub(search, stub_study)
    states = {row.name: row.state for row in search.ledger.rows()}
    assert states["simpo-0000"] == "running"
    assert set(states.values()) <= {"running", "finished"}
    fault.unlink()
    results, _ = run_stub(search, stub_study)
    assert Counter(trial.state for trial in results.trials) == {"finished": 4}
    for trial in results.trials:
        again = {step for step, times in steps_done(search.path, trial.name).items() if times > 1}
        assert len(again) <= 2, "what was done before the last checkpoint stays"


@pytest.mark.slow
def test_a_search_of_which_nothing_but_failures_comes_is_stopped(tmp_path: Path) -> None:
    """It has a budget of hours and no number of trials."""
    wanted = {"sampler": "random", "pruner": "none", "budget": {"gpu_hours": 1}}
    study = build({**STUB, "storage": str(tmp_path), "search": wanted, "resources": {"slots": 1, "workers": 1}}, "stub")
    search = searches.create(study)
    (search.path / "faults").mkdir()
    for name in (trial_name(label, number) for label in study.methods for number in range(2 * LEAST)):
        (search.path / "faults" / name).write_text("raise")
    with pytest.raises(
        Hindrance, match=rf"^{LEAST} trials failed one after another.*: asked to raise .*\nstub has stop"
    ):
        run_stub(search, study)
    states = Counter(row.state for row in search.ledger.rows())
    assert states.keys() <= {"failed", "running"}
    assert LEAST <= states["failed"] <= LEAST + driver.concurrent_trials(study), (
        "those that were under way may fail too"
    )


def test_an_interrupted_search_goes_on_and_can_be_extended(stub_study: Study) -> None:
    search = searches.create(stub_study)
    ledger = search.ledger
    space = {name: axis.distribution() for name, axis in stub_study.space("dpo").items()}
    row = ledger.ask("dpo", make_sampler("random", 0, space), seed=3)
    figures = dict.fromkeys(("objective", "win_rate", "ci_low", "ci_high"), 0.5) | {"n": 1, "kl": 0.0, "length": 1.0}
    ledger.record(row, 0, Outcome(row.name, "running", 1 / 3, 4, figures))
    results, watcher = run_stub(search, stub_study)
    assert Counter(t.state for t in results.trials) == {"finished": 4}
    assert watcher.events[0] == ("drawn", "dpo-0000"), "what was unfinished comes first"
    first = next(t for t in results.trials if t.name == "dpo-0000")
    assert first.history[0].win_rate == 0.5, "an evaluation that is recorded is not made again"
    searches.extend(search, 1)
    extended, _ = run_stub(search, stub_study)
    assert Counter(t.method for t in extended.trials) == {"dpo": 3, "simpo": 3}
    costs = {t.name: t.cost_s for t in extended.trials}
    assert {t.name: t.cost_s for t in results.trials}.items() <= costs.items(), "nothing runs twice"


def test_the_best_of_each_method_are_confirmed_on_the_slots_once(tmp_path: Path) -> None:
    study = build({**STUB, "storage": str(tmp_path), "confirm": {"top": 1, "seeds": 2}}, "stub")
    search = searches.create(study)
    (search.path / "faults").mkdir()
    for number in range(2):
        (search.path / "faults" / f"simpo-000{number}.s1").write_text("diverge")
    results, _ = run_stub(search, study)
    for method in ("dpo", "simpo"):
        best = max((t for t in results.trials if t.method == method), key=lambda t: t.history[-1].win_rate)
        (confirmed,) = [t for t in results.trials if t.method == method and t.confirmation is not None]
        assert confirmed == best
        found = confirmed.confirmation
        assert found is not None
        assert found["win_rate"] == pytest.approx(best.history[-1].win_rate)
        assert found["n"] == 10
        failed = {f"{best.name}.s1": "asked to diverge"} if method == "simpo" else {}
        assert (found["seeds"], found["failed"]) == (2 - len(failed), failed)
    work = {path.parent.name: path.read_text() for path in search.path.glob("trials/*.s?/work.log")}
    again, _ = run_stub(search, study)
    assert [t.cost_s for t in again.trials] == [t.cost_s for t in results.trials], "nothing is left to run"
    assert {path.parent.name: path.read_text() for path in search.path.glob("trials/*.s?/work.log")} == work
    assert [t.confirmation for t in again.trials] == [t.confirmation for t in results.trials]


@pytest.mark.slow
def test_a_search_that_is_stopped_while_it_confirms_confirms_the_rest_when_it_goes_on(tmp_path: Path) -> None:
    study = build({**STUB, "storage": str(tmp_path), "confirm": {"top": 2, "seeds": 2}}, "stub")
    search = searches.create(study)
    (search.path / "step_s").write_text("0.05")

    class Stops(Silent):
        def stage(self, text: str) -> None:
            if text.startswith("confirming"):
                Commands(search.ledger).send("stop", trial=None)

    driver.run(search, study, Stops(), bench="stub_bench:StubBench")
    confirmed = {row.name for row in search.ledger.rows() if row.confirmation is not None}
    assert len(confirmed) < 4
    assert Commands(search.ledger).open() == []
    results, watcher = run_stub(search, study)
    assert len([t for t in results.trials if t.confirmation is not None]) == 4
    assert watcher.events == [], "no trial was drawn or evaluated for that"
    logs = search.path.glob("trials/*.s?/work.log")
    assert {tuple(sorted(set(log.read_text().split()), key=int)) for log in logs} == {tuple(map(str, range(12)))}


@pytest.mark.slow
def test_a_search_that_is_paused_while_it_confirms_confirms_the_rest_when_it_goes_on(tmp_path: Path) -> None:
    study = build({**STUB, "storage": str(tmp_path), "confirm": {"top": 2, "seeds": 2}}, "stub")
    search = searches.create(study)
    (search.path / "step_s").write_text("0.1")

    class Pauses(Silent):
        def stage(self, text: str) -> None:
            if text.startswith("confirming") and not Commands(search.ledger).all():
                Commands(search.ledger).send("pause", trial=None)
            if text.startswith("pausing"):
                Commands(search.ledger).send("resume", trial=None)

    driver.run(search, study, Pauses(), bench="stub_bench:StubBench")
    assert [command.answer for command in Commands(search.ledger).all()][1:] == ["going on"]
    assert len([row for row in search.ledger.rows() if row.confirmation is not None]) == 4


def test_a_slot_that_is_given_up_hands_back_what_it_held(tmp_path: Path) -> None:
    class Broken(Slot):
        def _fit(self) -> None:
            raise RuntimeError("there is no place for it")

    pool = ray.remote(SlotPool).options(name="given-up", namespace=NAMESPACE)
    asked = pool.remote(1, 100, str(tmp_path / "pool.json"), str(tmp_path / "slots.jsonl"))
    ray.get(asked.enter.remote("slot-0", "a", 0, "node", 1))
    job = Job("dpo-0000", "dpo", {}, 0, 1.0)
    waiting = asked.submit.remote(job)
    assert ray.get(asked.next_job.remote("slot-0", "a", 0)) == job
    plan = SlotPlan("stub", "slot-0", "given-up", NAMESPACE, "", {}, 1, 1, 0, "PACK", str(tmp_path))
    slot = Broken(plan)
    slot.start()
    ray.get(asked.enter.remote("slot-1", "b", 0, "node", 2))
    assert ray.get(asked.next_job.remote("slot-1", "b", 0), timeout=60) == job
    assert slot.close(10)
    assert "no place" in str(slot.error)
    ray.get(asked.finished.remote("slot-1", "b", Outcome("dpo-0000", "finished", 1.0), job))
    assert ray.get(waiting).state == "finished"
    ray.kill(asked)


def test_no_slot_begins_anew_while_the_others_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []

    class Leaving(Slot):
        def _fit(self) -> None:
            begun.append(self.plan.slot)
            pool, group = ray.get_actor(self.plan.pool, namespace=NAMESPACE), uuid.uuid4().hex
            ray.get(pool.enter.remote(self.plan.slot, group, 0, "node", 1))
            assert ray.get(pool.next_job.remote(self.plan.slot, group, 0)) is None
            time.sleep(1 if self.plan.slot == "slot-0" else 0)

    monkeypatch.setattr(cluster, "Slot", Leaving)
    study = build({**STUB, "storage": str(tmp_path), "resources": {"slots": 3, "workers": 1}}, "stub")
    with cluster.slots_open(study, "leaving", tmp_path, "", {}, 0) as opened:
        while len(opened.view()) < 3:
            time.sleep(0.05)
    assert sorted(begun) == ["slot-0", "slot-1", "slot-2"]


@pytest.mark.slow
def test_a_slot_whose_groups_die_before_their_first_job_is_given_up_and_the_search_ends(tmp_path: Path) -> None:
    slot = Slot(SlotPlan("stub", "slot-0", "no pool", NAMESPACE, "", {}, 1, 1, 0, "PACK", str(tmp_path)))
    slot.start()
    deadline = time.monotonic() + 240
    while slot.alive and time.monotonic() < deadline:
        time.sleep(0.1)
    with pytest.raises(ClusterError, match=r"(?s)no slot is left: .*Failed to look up actor with name 'no pool'"):
        Cluster(None, "no pool", [slot]).check()


def test_the_workers_of_a_slot_keep_what_a_step_frees(tmp_path: Path) -> None:
    pool = ray.remote(SlotPool).options(name="keeping", namespace=NAMESPACE)
    asked = pool.remote(1, 100, str(tmp_path / "pool.json"), str(tmp_path / "slots.jsonl"))
    bench = "stub_bench:MemoryBench"
    slot = Slot(SlotPlan("stub", "slot-0", "keeping", NAMESPACE, bench, {}, 1, 1, 0, "PACK", str(tmp_path)))
    slot.start()
    outcome = ray.get(asked.submit.remote(Job("dpo-0000", "dpo", {}, 0, 1.0)), timeout=120)
    ray.get(asked.close.remote())
    assert slot.close(30)
    ray.kill(asked)
    assert outcome.evaluation["kept_mib"] > 180
