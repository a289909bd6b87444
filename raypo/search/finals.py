"""What follows the trials: the best are confirmed, and the winners do the benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import ray

from raypo.search.benchmarking import benchmark, finalists
from raypo.search.cluster import Cluster
from raypo.search.conductor import LedgerConductor
from raypo.search.confirming import candidates, confirm
from raypo.search.jobs import Job, Outcome
from raypo.search.searches import SearchFolder

LOOK_EVERY_S = 0.5
"""How soon a command is heeded while slots do the finals."""


class LeftForLater(Exception):
    """A command came before all jobs of the finals were done."""


def finals(conductor: LedgerConductor, search: SearchFolder, cluster: Cluster, say: Callable[[str], None]) -> None:
    """Confirm the best of every method, and have the winners do the benchmarks.

    Raises:
        LeftForLater: a command has stopped or paused the search meanwhile.
    """
    study, ledger = conductor.study, conductor.ledger
    together = partial(done, conductor, cluster, search)
    work = candidates(study, ledger, conductor.job)
    if work:
        seeds = study.confirm.seeds
        say(f"confirming {len(work)} configurations with {seeds} seeds each on unseen prompts")
        confirm(ledger, search.path, work, together, say)
    winners = finalists(study, ledger)
    if winners:
        say(f"benchmarks of {', '.join(row.name for row in winners)}")
        benchmark(ledger, winners, conductor.job, together, say)


def done(conductor: LedgerConductor, cluster: Cluster, search: SearchFolder, jobs: Sequence[Job]) -> Iterator[Outcome]:
    """Have the slots do some jobs; their outcomes as they come, with what they wrote.

    Where the search is stopped or paused, those that are not done checkpoint; who stops it waits for no benchmark.

    Raises:
        LeftForLater: some are not done.
    """
    left = len(jobs)
    waiting = [cluster.pool.submit.remote(job) for job in ([] if conductor.stopping or conductor.halted else jobs)]
    while waiting:
        over, waiting = ray.wait(waiting, num_returns=1, timeout=LOOK_EVERY_S)
        cluster.check()
        if conductor.stopping or conductor.halted:
            for job in jobs:
                cluster.cancel(job.trial)
        if conductor.stopping and jobs[0].kind == "benchmark":
            waiting = []  # it has no checkpoint to come to
        for outcome in ray.get(over):
            if outcome.hinders:
                conductor.hinder(outcome.reason)
            if outcome.state != "stopped":
                left -= 1
                search.pull_trials(outcome.trial)
                yield outcome
    for job in jobs:
        cluster.forget(job.trial)
    if left:
        raise LeftForLater
