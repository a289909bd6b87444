"""Running a search from its study to its comparison, and going on with one that was interrupted."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Protocol

from raypo.errors import Hindrance, StorageUnavailable
from raypo.search import tune
from raypo.search.cluster import Cluster, slots_open
from raypo.search.commands import Commands
from raypo.search.conductor import LedgerConductor
from raypo.search.contents import forget
from raypo.search.exporting import KEPT, Models
from raypo.search.finals import LeftForLater, finals
from raypo.search.folders import CURSOR, LIVE, origins_file, usage_file
from raypo.search.in_vain import InVain
from raypo.search.interrupt import stopping_on_interrupt
from raypo.search.joining import NAMESPACE, check_resources, joined
from raypo.search.journal import mend
from raypo.search.keeping_up import kept_up
from raypo.search.lease import lease
from raypo.search.ledger import Ledger, Row
from raypo.search.preparing import is_to_stop, prepare
from raypo.search.searches import SearchFolder
from raypo.search.steering import Steering
from raypo.study import Study
from raypo.training.writing import is_full

BENCH = "raypo.search.bench:TrialBench"
READY = 8
"""Most trials that wait ready beside those that slots are at."""


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
            prepare(cluster, watcher.stage, lambda: is_to_stop(commands, since))
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
                finals(conductor, search, cluster, watcher.stage)
        except LeftForLater:
            return True
    with conductor.lock:
        conductor.stopping = conductor.stopping or not (conductor.halted or conductor.open)
        return not conductor.stopping
