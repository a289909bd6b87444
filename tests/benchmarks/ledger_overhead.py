"""What a trial costs beside its training: ledger, Tune and pool, with slots that answer every job at once.

python tests/benchmarks/ledger_overhead.py --trials 1000                        slots answer at once
python tests/benchmarks/ledger_overhead.py --trials 10000 --slots 64            the same with many slots
python tests/benchmarks/ledger_overhead.py --trials 10000 --slots 64 --no-tune  ledger and conductor alone, no Ray

The driver is raypo's own; its slots are replaced by coroutines of one actor that ask the pool as a worker group does.
Prints, for every tenth of the search, milliseconds per trial (wall clock and the driver's processor time) and the
driver's memory, and at the end how long the journal takes to open.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "chaos"))

from search import STUBBED

from raypo.search import cluster, driver, searches
from raypo.search.conductor import LedgerConductor
from raypo.search.driver import concurrent_trials
from raypo.search.exporting import KEPT, Models
from raypo.search.jobs import Job, Outcome
from raypo.search.ledger import Row
from raypo.search.serving import SlotPlan
from raypo.search.tune import FINISHED
from raypo.study import Study, build


def answer(job: Job) -> Outcome:
    """What a slot would say of a job, without the work."""
    if job.kind == "prepare":
        return Outcome(job.trial, "finished", 1.0)
    value = 0.9 - 0.1 * abs(math.log10(job.point["beta"]) + 1)
    figures = {"objective": value, "win_rate": value, "ci_low": value, "ci_high": value}
    state = "finished" if job.until >= 1 else "running"
    figures |= {"n": 200, "kl": 1.0, "length": 12.0, "judged": 200}
    return Outcome(job.trial, state, job.until, round(12 * job.until), figures, 0.01, "step-00000012")


class Slots:
    """An actor in which every slot of the search is a coroutine.

    Its first answers wait `warm_up_s`, as training would: Tune starts an actor for each trial that runs, and as long
    as trials end faster than an actor starts, it starts one anew for every trial.
    """

    def __init__(self, warm_up_s: float) -> None:
        self._warm_up_s = warm_up_s

    async def serve(self, slot: str, pool_name: str, namespace: str) -> None:
        import ray

        pool: Any = ray.get_actor(pool_name, namespace=namespace)
        await pool.enter.remote(slot, "only", 0, "here", 0)
        index = 0
        while (job := await pool.next_job.remote(slot, "only", index)) is not None:
            if index == 1:  # 0 is the preparation
                await asyncio.sleep(self._warm_up_s)
            await pool.finished.remote(slot, "only", answer(job), job)
            index += 1


class SimulatedSlot:
    """Stands where the driver keeps a Ray Train worker group."""

    actor: Any = None
    warm_up_s = 0.0
    error: BaseException | None = None
    alive = True

    def __init__(self, plan: SlotPlan) -> None:
        self._plan = plan
        self._served: Any = None

    def start(self) -> None:
        import ray

        if SimulatedSlot.actor is None:
            SimulatedSlot.actor = (
                ray.remote(Slots).options(num_cpus=0, max_concurrency=1000).remote(SimulatedSlot.warm_up_s)
            )
        self._served = SimulatedSlot.actor.serve.remote(self._plan.slot, self._plan.pool, self._plan.namespace)

    def close(self, timeout_s: float) -> bool:
        import ray

        return bool(ray.wait([self._served], timeout=timeout_s)[0])


class Clock:
    """A watcher that takes the time of every tenth of the search."""

    def __init__(self, trials: int) -> None:
        self._tenth, self._ended = max(1, trials // 10), 0
        self._process = psutil.Process()
        self.rows: list[dict[str, float]] = []
        self._wall, self._cpu = time.monotonic(), time.process_time()

    def started(self, *_: Any) -> None: ...
    def ended(self, *_: Any) -> None: ...
    def stage(self, text: str) -> None: ...

    def running(self, *_: Any) -> None:
        self._wall, self._cpu = time.monotonic(), time.process_time()

    def event(self, kind: str, row: Row) -> None:  # noqa: ARG002
        if kind != "ended":
            return
        self._ended += 1
        if self._ended % self._tenth == 0:
            wall, cpu = time.monotonic(), time.process_time()
            self.rows.append(
                {
                    "trials": self._ended,
                    "wall_ms": round(1000 * (wall - self._wall) / self._tenth, 1),
                    "driver_cpu_ms": round(1000 * (cpu - self._cpu) / self._tenth, 1),
                    "driver_mib": round(self._process.memory_info().rss / 2**20),
                }
            )
            print(json.dumps(self.rows[-1]), flush=True)
            self._wall, self._cpu = wall, cpu


def through_tune(search: searches.SearchFolder, study: Study, clock: Clock) -> None:
    """The driver as it is, but for its slots."""
    cluster.Slot = SimulatedSlot  # type: ignore[misc, assignment]
    driver.run(search, study, clock)


def ledger_alone(search: searches.SearchFolder, study: Study, clock: Clock) -> None:
    """The conductor asked as Tune asks it, every slot's trial in turn."""
    ledger, concurrent = search.ledger, concurrent_trials(study)
    conductor = LedgerConductor(
        study,
        ledger,
        search=search,
        pool="",
        namespace="",
        concurrent=concurrent,
        targets=search.settings["targets"],
    )
    conductor.listen(clock.event)
    conductor.listen(Models(search.copy, KEPT, ()).heard)
    clock.running()
    live: dict[str, Any] = {}
    asked, over = 0, False
    while live or not over:
        while not over and len(live) < concurrent and (found := conductor.next(str(asked))) is not None:
            over = found == FINISHED
            if not over:
                live[str(asked)] = found
                asked += 1
        trial_id = next(iter(live), None)
        if trial_id is None:
            continue
        for rung, job in enumerate(live.pop(trial_id)["jobs"]):
            conductor.heard(trial_id, rung, answer(Job(**job)))
        conductor.left(trial_id, error=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--sampler", default="random")
    parser.add_argument("--no-tune", action="store_true")
    parser.add_argument("--warm-up", type=float, default=20.0, help="seconds that the first jobs take")
    words = parser.parse_args()
    SimulatedSlot.warm_up_s = words.warm_up
    with tempfile.TemporaryDirectory() as storage:
        content = {
            **STUBBED,
            "name": "overhead",
            "storage": storage,
            "search": {"trials": words.trials // 2, "sampler": words.sampler, "pruner": "none"},
            "resources": {"slots": words.slots, "workers": 1, "cpus_per_worker": 1, "recycle_after": 10**9},
        }
        study = build(content, "overhead")
        search = searches.create(study)
        clock = Clock(words.trials)
        (ledger_alone if words.no_tune else through_tune)(search, study, clock)
        began = time.monotonic()
        found = len(search.ledger.rows())
        opened_s = time.monotonic() - began
        size = (search.path / "ledger.journal").stat().st_size / 2**20
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        print(json.dumps({"trials": found, "opened_s": round(opened_s, 2), "journal_mib": round(size, 1)}))
        print(json.dumps({"peak_driver_mib": round(peak), "load": psutil.getloadavg()}))


if __name__ == "__main__":
    main()
