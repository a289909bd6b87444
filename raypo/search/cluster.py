"""The part of a Ray cluster that serves one search: its pool and its slots."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raypo.errors import ClusterError
from raypo.search import notices, orphans
from raypo.search.folders import usage_file
from raypo.search.joining import NAMESPACE
from raypo.search.lease import Held
from raypo.search.pool import SlotPool
from raypo.search.serving import SlotPlan
from raypo.search.slots import Slot
from raypo.search.ticking import ticking
from raypo.study import Study

LEAVE_S = 15.0
"""How long slots have to leave at the end of a search."""


@dataclass
class Cluster:
    """A joined cluster with a pool and running slots."""

    pool: Any
    pool_name: str
    slots: list[Slot]
    held: Held | None = None
    _looking: threading.Lock = field(default_factory=threading.Lock)
    _left: bool = False
    _dead: Exception | None = None
    """What Ray said of a pool that it does not start again."""

    def view(self) -> dict[str, dict[str, Any]]:
        """What each slot is doing; empty while the pool does not answer, and once the cluster was left."""
        import ray

        with self._looking, contextlib.suppress(ray.exceptions.RayError):
            if not self._left:
                try:
                    answer: dict[str, dict[str, Any]] = ray.get(self.pool.view.remote(), timeout=5)
                except ray.exceptions.ActorDiedError as error:
                    self._dead = error
                    raise
                return answer
        return {}

    def leave(self) -> None:
        """Look no more: a thread that asks after Ray was shut down would start a new one."""
        with self._looking:
            self._left = True

    def cancel(self, trial: str) -> bool:
        """Have a trial's job end with a checkpoint; False while the pool does not answer."""
        return self._told(self.pool.cancel.remote(trial))

    def forget(self, trial: str) -> bool:
        """Let a cancelled trial run again; False while the pool does not answer."""
        return self._told(self.pool.forget.remote(trial))

    def _told(self, call: Any) -> bool:
        import ray

        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(call, timeout=5)
            return True
        return False

    def check(self) -> None:
        """Raise when nobody is left who could do the work, or when the search is not this driver's any more.

        Raises:
            ClusterError: every slot's worker group has ended for good, or the pool has.
            StorageError: another driver has taken the search over.
        """
        if self.held is not None:
            self.held.check()
        if self._dead is not None:
            raise ClusterError(f"the pool is gone: {str(self._dead).splitlines()[0]} raypo resume continues the search")
        if self.slots and not any(slot.alive for slot in self.slots):
            error = next((slot.error for slot in self.slots if slot.error), None)
            raise ClusterError(
                f"no slot is left: {error or 'their worker groups ended'}; raypo resume continues the search"
            )


@contextlib.contextmanager
def slots_open(
    study: Study, search: str, folder: Path, bench: str, settings: dict[str, Any], revision: int
) -> Iterator[Cluster]:
    """The pool and the slots of a search, closed in order at the end; `revision` is that of the study."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    wanted = study.resources
    here = ray.get_runtime_context().get_node_id()
    pool_name = f"raypo-pool-{search}-{uuid.uuid4().hex[:8]}"
    pool: Any = (
        ray.remote(SlotPool)
        .options(
            name=pool_name,
            namespace=NAMESPACE,
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,
            max_concurrency=10_000,
            scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),  # others may be taken away
        )
        .remote(
            wanted.workers,
            wanted.recycle_after,
            memory=str(folder / "ray" / pool_name),
            usage=str(usage_file(folder)),
        )
    )
    slots = [
        Slot(
            SlotPlan(
                search=search,
                slot=f"slot-{i}",
                pool=pool_name,
                namespace=NAMESPACE,
                bench=bench,
                bench_settings=settings,
                workers=wanted.workers,
                cpus_per_worker=wanted.cpus_per_worker,
                gpus_per_worker=wanted.gpus_per_worker,
                placement=wanted.placement,
                folder=str(folder / "ray"),
                revision=revision,
            )
        )
        for i in range(wanted.slots)
    ]
    for slot in slots:
        slot.start()
    cluster, at_once = Cluster(pool, pool_name, slots), True
    try:
        with (
            ticking(lambda: notices.tell_notices(pool), notices.EVERY_S, "notices"),
            ticking(orphans.release_orphans, orphans.EVERY_S, "orphans"),
        ):
            yield cluster
        at_once = False
    finally:
        cluster.leave()
        for slot in slots:  # before any of them leaves, or it would begin anew while another one is waited for
            slot.begin_no_more()
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(pool.close.remote(at_once), timeout=5)
        deadline = time.monotonic() + LEAVE_S
        for slot in slots:
            slot.close(max(0.1, deadline - time.monotonic()))
        if any(slot.alive for slot in slots):  # one may wait for a place that there is not
            _give_up(slots)
        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(pool)


def _give_up(slots: list[Slot]) -> None:
    """End worker groups that did not leave: where a thread still waits for one, Ray's shutdown ends this process."""
    import ray

    with contextlib.suppress(ray.exceptions.RayError):
        orphans.end_controllers()
    for slot in slots:
        slot.close(LEAVE_S / 3)
