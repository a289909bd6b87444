"""Running a search from its study to its comparison, and going on with one that was interrupted."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import ray

from raypo.errors import ClusterError, Hindrance, StorageUnavailable
from raypo.search import tune
from raypo.search.benchmarking import benchmark, finalists
from raypo.search.cluster import Cluster, slots_open
from raypo.search.commands import Commands
from raypo.search.conductor import LedgerConductor
from raypo.search.confirming import candidates, confirm
from raypo.search.contents import forget
from raypo.search.exporting import KEPT, Models
from raypo.search.folders import CURSOR, LIVE, origins_file, usage_file
from raypo.search.in_vain import InVain
from raypo.search.interrupt import stopping_on_interrupt
from raypo.search.jobs import Job, Outcome
from raypo.search.joining import NAMESPACE, check_resources, joined
from raypo.search.journal import mend
from raypo.search.keeping_up import kept_up
from raypo.search.lease import lease
from raypo.search.ledger import Ledger, Row
from raypo.search.searches import SearchFolder
from raypo.search.steering import Steering
from raypo.study import Study
from raypo.training.writing import is_full

BENCH = "raypo.search.bench:TrialBench"
READY = 8
"""Most trials that wait ready beside those that slots are at."""
LOOK_EVERY_S = 0.5
"""How soon a command is heeded while slots do the finals."""

PAUSED_EARLY = (
    "pausing: what all trials share is made to its end, for it has no checkpoint, and none begins before raypo resume"
)


class Watcher(Protocol):
    """Who follows a search: the terminal, W&B."""

    def started(self, search: str, folder: Path, study: Study) -> None: ...

    def stage(self, text: str) -> None: ...

    def running(self, cluster: Cluster, conductor: LedgerConductor) -> None: ...

    def event(self, kind: str, row: Row) -> None: ...

    def ended(self, search: str, folder: Path) -> None: ...


def run(
    search: SearchFolder,
    study: Study,
    watcher: Watcher,
    *,
    address: str | None = None,
    bench: str = BENCH,
    log_to_driver: bool = False,
) -> None:
    """Run a search, new or interrupted, until every method has its trials.

    Raises:
        StorageError: another driver runs it, or its object store cannot be used.
        ClusterError: the cluster cannot hold the slots, or the preparation failed.
        Hindrance: something that no trial can do without was not there any more; all of them are at their checkpoints.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_full_disk_told(search))
        held = stack.enter_context(lease(search.copy, search.name))
        since = time.time()
        search.pull()
        mended = mend(search.journal)  # before another shell writes behind a line that was torn off
        (search.path / LIVE).unlink(missing_ok=True)  # of a driver that was killed
        beside = [search.path / LIVE, search.path / CURSOR, usage_file(search.path)]
        stack.enter_context(kept_up(search.copy, search.journal, beside))
        stack.enter_context(joined(study, address, log_to_driver))
        if mended:
            watcher.stage(mended)
        check_resources(study, growing=address is not None, mirrored=search.copy.mirrored)
        settings = {
            "study": study.written(),
            "search": search.name,
            "folder": search.copy.location,
            "allow_code": study.allow_code,
        }
        ledger = search.ledger
        if not ledger.rows():
            forget(search.copy)
        commands = Commands(ledger)
        revision = commands.standing().revision
        with slots_open(study, search.name, search.path, bench, settings, revision) as cluster:
            cluster.held = held
            watcher.started(search.name, search.path, study)
            _prepare(cluster, watcher, lambda: _is_to_stop(commands, since))
            search.copy.pull(origins_file(search.path))
            conductor = _conductor(search, study, ledger, cluster)
            conductor.listen(watcher.event)
            keep = max(KEPT, study.confirm.top)
            conductor.listen(Models(search.copy, keep, ledger.rows(), partial(_is_confirmed, ledger)).heard)
            conductor.listen(InVain(study.resources.slots, conductor.hinder).heard)
            steering = Steering(conductor, cluster, search.revise, watcher.stage, since)
            watcher.running(cluster, conductor)
            steering.begin()
            with stopping_on_interrupt(steering.stop), steering.following(search.path / LIVE):
                while not conductor.stopping and _round(conductor, search, cluster, steering, watcher):
                    pass
        shutil.rmtree(search.path / "ray", ignore_errors=True)  # Ray's own notes; the ledger is the record
        watcher.ended(search.name, search.path)
        if conductor.hindrance is not None:
            raise Hindrance(
                f"{conductor.hindrance}\n{search.name} has stopped, and its trials are at their checkpoints; mend "
                f"this, and raypo resume {search.name} goes on"
            )


@contextlib.contextmanager
def _full_disk_told(search: SearchFolder) -> Iterator[None]:
    """Say what to do where the driver itself finds no room for what it writes.

    Raises:
        StorageUnavailable: the disk is full.
    """
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise StorageUnavailable(
            f"{search.path}: the disk is full; make room, and raypo resume {search.name} goes on where it was"
        ) from error


def _is_confirmed(ledger: Ledger, trial: str) -> bool:
    return ledger.row(trial).confirmation is not None


def concurrent_trials(study: Study) -> int:
    """Trials that run or wait ready at a time: for each slot the one at work, and as many ready, up to `READY`."""
    slots = study.resources.slots
    return slots + min(slots, READY)


def _conductor(search: SearchFolder, study: Study, ledger: Ledger, cluster: Cluster) -> LedgerConductor:
    return LedgerConductor(
        study,
        ledger,
        search=search,
        pool=cluster.pool_name,
        namespace=NAMESPACE,
        concurrent=concurrent_trials(study),
        targets=search.settings["targets"],
    )


def _round(
    conductor: LedgerConductor, search: SearchFolder, cluster: Cluster, steering: Steering, watcher: Watcher
) -> bool:
    """Run trials, then the finals; whether a command has meanwhile asked for more, or has left the finals for later.

    Where none has, the search ends: what is asked from then on is left to who goes on with it.
    """
    tune.run(conductor, conductor.concurrent, str(search.path / "ray"))
    cluster.check()
    if not conductor.stopping:
        try:
            with steering.clock.off():
                _finals(conductor, search, cluster, watcher)
        except _LeftForLater:
            return True
    with conductor.lock:
        conductor.stopping = conductor.stopping or not (conductor.halted or conductor.open)
        return not conductor.stopping


class _LeftForLater(Exception):
    """A command came before all jobs of the finals were done."""


def _finals(conductor: LedgerConductor, search: SearchFolder, cluster: Cluster, watcher: Watcher) -> None:
    """Confirm the best of every method, and have the winners do the benchmarks."""
    study, ledger = conductor.study, conductor.ledger
    together = partial(_done, conductor, cluster, search)
    work = candidates(study, ledger, conductor.job)
    if work:
        seeds = study.confirm.seeds
        watcher.stage(f"confirming {len(work)} configurations with {seeds} seeds each on unseen prompts")
        confirm(ledger, search.path, work, together, watcher.stage)
    winners = finalists(study, ledger)
    if winners:
        watcher.stage(f"benchmarks of {', '.join(row.name for row in winners)}")
        benchmark(ledger, winners, conductor.job, together, watcher.stage)


def _done(conductor: LedgerConductor, cluster: Cluster, search: SearchFolder, jobs: Sequence[Job]) -> Iterator[Outcome]:
    """Have the slots do some jobs; their outcomes as they come, with what they wrote.

    Where the search is stopped or paused, those that are not done checkpoint; who stops it waits for no benchmark.

    Raises:
        _LeftForLater: some are not done.
    """
    left = len(jobs)
    waiting = [cluster.pool.submit.remote(job) for job in ([] if conductor.stopping or conductor.halted else jobs)]
    while waiting:
        done, waiting = ray.wait(waiting, num_returns=1, timeout=LOOK_EVERY_S)
        cluster.check()
        if conductor.stopping or conductor.halted:
            for job in jobs:
                cluster.cancel(job.trial)
        if conductor.stopping and jobs[0].kind == "benchmark":
            waiting = []  # it has no checkpoint to come to
        for outcome in ray.get(done):
            if outcome.hinders:
                conductor.hinder(outcome.reason)
            if outcome.state != "stopped":
                left -= 1
                search.pull_trials(outcome.trial)
                yield outcome
    for job in jobs:
        cluster.forget(job.trial)
    if left:
        raise _LeftForLater


def _is_to_stop(commands: Commands, since: float) -> bool:
    """Whether a search that is prepared is to stop; a pause is answered, and heeded once that is done."""
    halting = [command for command in commands.open() if command.halts and command.asked >= since]
    for command in halting:
        if command.halts == "pause":
            commands.close(command, PAUSED_EARLY)
    return any(command.halts == "stop" for command in halting)


def _prepare(cluster: Cluster, watcher: Watcher, stopped: Callable[[], bool]) -> None:
    """Have one slot make what all trials share, saying how far it is; who stops the search does not wait for it."""
    job = Job("prepare", "prepare", {}, 0, 1.0, kind="prepare")
    waiting = cluster.pool.submit.remote(job)
    told = ""
    while True:
        ready, _ = ray.wait([waiting], timeout=0.5)
        for slot in cluster.view().values():
            pulse = slot["pulse"]
            if pulse is not None and pulse.stage != told:
                told = pulse.stage
                watcher.stage(told)
        cluster.check()
        if ready:
            break
        if stopped():
            ray.cancel(waiting)  # or Ray complains that nobody will answer it
            return
    outcome = ray.get(waiting)
    if outcome.state not in ("finished",):
        raise ClusterError(f"preparing failed: {outcome.reason}")
    for note in outcome.evaluation.get("notes", []):
        watcher.stage(note)
