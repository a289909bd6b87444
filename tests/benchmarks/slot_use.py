"""What waiting costs: the share of the slots' time that a search leaves unused, in pretended time.

    python tests/benchmarks/slot_use.py [--trials-per-slot 25] [--searches 3]

A search repeats exactly, so draws and prunings wait for stragglers (docs/ledger.md). Here the real conductor, ledger,
sampler and pruner run a search over slots that take as long as they are told to: a third of a schedule lasts 1, times a
random factor (normal around 1 with the given spread) and the slowness of its slot. Beside it the same with the random
sampler and no pruner, where nobody waits: what that leaves unused is the end of the search, when slots run out of work.
Pretended time, so the machine does not matter.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import logging
import math
import random
import statistics
import tempfile
import warnings
from collections.abc import Sequence
from typing import Any

import optuna

from raypo.search.conductor import LedgerConductor
from raypo.search.jobs import Job, Outcome
from raypo.search.searches import create
from raypo.search.tune import FINISHED
from raypo.study import build

WAITING = {"sampler": "tpe", "pruner": "median"}
NOBODY_WAITS = {"sampler": "random", "pruner": "none"}
STUDY: dict[str, Any] = {
    "name": "slot_use",
    "model": {"path": "quickstart"},
    "data": {"source": "quickstart"},
    "training": {"lr": {"log_uniform": [1e-6, 1e-3]}, "batch_size": 8},
    "methods": {"dpo": {"beta": {"log_uniform": [0.01, 1.0]}}},
    "objective": {"judge": {"kind": "rule", "function": "quickstart"}, "at": ["1/3", "2/3", 1.0]},
    "tracking": {"wandb": "disabled"},
}


def unused(search: dict[str, Any], slowness: Sequence[float], spread: float, trials: int, seed: int) -> float:
    """Share of what the slots could have done that they did not do, until the last trial ended."""
    with tempfile.TemporaryDirectory() as storage:
        content = {**STUDY, "storage": storage, "search": {**search, "trials": trials, "seed": seed}}
        folder = create(build({**content, "resources": {"slots": len(slowness)}}, "slot_use"))
        conductor = LedgerConductor(
            folder.study(),
            folder.ledger,
            search=folder,
            pool="",
            namespace="",
            concurrent=2 * len(slowness),
            targets=folder.settings["targets"],
        )
        done, lasted = _played(conductor, slowness, random.Random(seed), spread)
    return 1 - done / (lasted * sum(1 / slow for slow in slowness))


def _played(
    conductor: LedgerConductor, slowness: Sequence[float], chance: random.Random, spread: float
) -> tuple[float, float]:
    """(Thirds of schedules that were trained, how long it took)."""
    numbers, free, queue = itertools.count(), list(range(len(slowness))), list[tuple[str, Job]]()
    jobs: dict[str, list[Job]] = {}
    events: list[tuple[float, int, int, str, int]] = []
    now = done = 0.0

    def work(slot: int, trial_id: str, rung: int) -> None:
        nonlocal done
        length = max(0.1, chance.gauss(1, spread))
        done += length
        heapq.heappush(events, (now + length * slowness[slot], next(numbers), slot, trial_id, rung))

    while True:
        for trial_id in [f"t{next(numbers)}" for _ in range(2 * conductor.concurrent)]:
            config = conductor.next(trial_id) if len(jobs) < conductor.concurrent else None
            if isinstance(config, dict):
                jobs[trial_id] = [Job(**job) for job in config["jobs"]]
                queue.append((trial_id, jobs[trial_id][config["rung"]]))
        if not jobs:
            assert config == FINISHED
            return done, now
        while free and queue:
            trial_id, job = queue.pop(0)
            work(free.pop(0), trial_id, jobs[trial_id].index(job))
        now, _, slot, trial_id, rung = heapq.heappop(events)
        outcome = _told(jobs[trial_id][rung])
        if conductor.heard(trial_id, rung, outcome) and outcome.state == "running":
            work(slot, trial_id, rung + 1)
        else:
            conductor.left(trial_id, error=False)
            jobs.pop(trial_id)
            free.append(slot)


def _told(job: Job) -> Outcome:
    """A small beta is best."""
    value = 1 - abs(math.log10(job.point["beta"]) + 1.5) + 0.1 * job.until
    figures = dict.fromkeys(("objective", "win_rate", "ci_low", "ci_high"), value)
    return Outcome(job.trial, "finished" if job.until >= 1 else "running", job.until, evaluation=figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials-per-slot", type=int, default=25)
    parser.add_argument("--searches", type=int, default=3)
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.disable(logging.WARNING)
    cases = {
        f"{n} slots, spread {spread:.0%}": ([1.0] * n, spread) for n in (4, 8, 16) for spread in (0.02, 0.05, 0.15)
    }
    cases["4 slots, one at half speed"] = ([1.0, 1.0, 1.0, 2.0], 0.02)
    print(f"{'unused':28}{'tpe + median':>16}{'nobody waits':>16}", flush=True)
    for name, (slowness, spread) in cases.items():
        trials = given.trials_per_slot * len(slowness)
        shares = [
            statistics.fmean(unused(search, slowness, spread, trials, seed) for seed in range(given.searches))
            for search in (WAITING, NOBODY_WAITS)
        ]
        print(f"{name:28}" + "".join(f"{share:16.1%}" for share in shares), flush=True)


if __name__ == "__main__":
    main()
