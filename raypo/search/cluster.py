"""The Ray cluster of one search: joining or starting it, the pool, the slots, and leaving nothing behind."""

from __future__ import annotations

import contextlib
import logging
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from raypo.errors import ClusterError
from raypo.search.folders import usage_file
from raypo.search.notices import heeding_notices
from raypo.search.pool import SlotPool
from raypo.search.slots import Slot, SlotPlan
from raypo.study import Study

NAMESPACE = "raypo"
_QUIET = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "64",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass
class Cluster:
    """A joined cluster with a pool and running slots."""

    pool: Any
    pool_name: str
    slots: list[Slot]

    def view(self) -> dict[str, dict[str, Any]]:
        """What each slot is doing; empty while the pool does not answer."""
        import ray

        with contextlib.suppress(ray.exceptions.RayError):
            answer: dict[str, dict[str, Any]] = ray.get(self.pool.view.remote(), timeout=5)
            return answer
        return {}

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
        """Raise when no slot is left that could do the work.

        Raises:
            ClusterError: every slot's worker group has ended for good.
        """
        if self.slots and not any(slot.alive for slot in self.slots):
            error = next((slot.error for slot in self.slots if slot.error), None)
            raise ClusterError(
                f"no slot is left: {error or 'their worker groups ended'}; raypo resume continues the search"
            )


@contextlib.contextmanager
def joined(study: Study, address: str | None, log_to_driver: bool = False) -> Iterator[None]:
    """Be connected to a Ray cluster: the given one, or a local one of this command's own.

    A cluster of our own is taken down at the end, with every process that it started. A process that is connected
    already (a notebook) stays so.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.update({key: value for key, value in _QUIET.items() if key not in os.environ})
    own = address is None
    before = _children()
    with _quiet_imports():
        ray.init(**_init_arguments(study, address, log_to_driver))
    started = _children() - before
    try:
        yield
    finally:
        started |= _children() - before if own else set()
        ray.shutdown()
        if own:
            _reap(started)


def _init_arguments(study: Study, address: str | None, log_to_driver: bool) -> dict[str, Any]:
    common: dict[str, Any] = {
        "namespace": NAMESPACE,
        "log_to_driver": log_to_driver,
        "logging_level": logging.ERROR,
        "configure_logging": True,
    }
    if address is not None:
        return {**common, "address": address}
    resources = study.resources
    needed = resources.slots * resources.workers * resources.cpus_per_worker
    cpus = max(int(needed) + 1, os.cpu_count() or 1)
    return {**common, "address": "local", "num_cpus": cpus, "include_dashboard": True, "dashboard_host": "127.0.0.1"}


def check_resources(study: Study, growing: bool) -> None:
    """Compare what the slots need with what the cluster has.

    In a `growing` cluster, which is not of our own, one slot has to fit into what it has or its autoscaler may add;
    the others wait for nodes.

    Raises:
        ClusterError: the slots would wait for ever.
    """
    import ray

    wanted = study.resources
    slots = 1 if growing else wanted.slots
    have = ray.cluster_resources()
    for name, each in (("GPU", wanted.gpus_per_worker), ("CPU", wanted.cpus_per_worker)):
        need = each * wanted.workers * slots
        if need > max(have.get(name, 0), _to_come(name) if growing else 0) + 1e-9:
            who = "a slot" if slots == 1 else f"{slots} slots"
            raise ClusterError(
                f"resources: {who} of {wanted.workers} workers {'needs' if slots == 1 else 'need'} {need:g} {name}s, "
                f"the cluster has {have.get(name, 0):g} on {len(ray.nodes())} node(s); lower resources.slots, "
                f"resources.workers or resources.{name.lower()}s_per_worker, or add nodes"
            )


def _to_come(resource: str) -> float:
    """How much of a resource a cluster can have once its autoscaler has added all it may; 0 without one."""
    from ray._private.state import state

    return float((state.get_max_resources_from_cluster_config() or {}).get(resource, 0))


@contextlib.contextmanager
def slots_open(
    study: Study, search: str, folder: Path, bench: str, settings: dict[str, Any], revision: int
) -> Iterator[Cluster]:
    """The pool and the slots of a search, closed in order at the end; `revision` is that of the study."""
    import ray

    wanted = study.resources
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
        )
        .remote(
            wanted.workers,
            wanted.recycle_after,
            memory=str(folder / "ray" / f"{pool_name}.json"),
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
    at_once = True
    try:
        with heeding_notices(pool):
            yield Cluster(pool, pool_name, slots)
        at_once = False
    finally:
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(pool.close.remote(at_once), timeout=5)
        deadline = time.monotonic() + 15
        for slot in slots:
            slot.close(max(0.1, deadline - time.monotonic()))
        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(pool)


def _children() -> set[psutil.Process]:
    """Processes that descend from this one, but W&B's: it closes its files itself when this process ends."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "wandb-core" not in process.name():
                found.add(process)
    return found


def _reap(processes: set[psutil.Process]) -> None:
    """End what a cluster of our own left running; Ray Train's controllers can outlive their cluster by minutes."""
    _, alive = psutil.wait_procs(list(processes), timeout=3)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=3)


@contextlib.contextmanager
def _quiet_imports() -> Iterator[None]:
    for name in ("ray", "ray.train", "ray.tune", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    yield
