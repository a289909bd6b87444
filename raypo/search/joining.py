"""Joining a Ray cluster or starting one, and leaving nothing of it behind."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from typing import Any

import psutil

from raypo.errors import ClusterError
from raypo.study import Study
from raypo.study.searching import Resources

ANSWER_WITHIN_S = 5
NAMESPACE = "raypo"
_QUIET = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # notices.py tells the pool; a watcher is a process more per slot
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


@contextlib.contextmanager
def joined(study: Study, address: str | None, log_to_driver: bool = False) -> Iterator[None]:
    """Be connected to a Ray cluster: the given one, or a local one of this command's own.

    A cluster of our own is taken down at the end, with every process that it started. A process that is connected
    already (a notebook) stays so.

    Raises:
        ClusterError: no cluster answers at the address, or none can be started here.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.update({key: value for key, value in _QUIET.items() if key not in os.environ})
    own = address is None
    before = _children()
    _connect(_init_arguments(study, address, log_to_driver), address)
    started = _children() - before
    try:
        yield
    finally:
        started |= _children() - before if own else set()
        ray.shutdown()
        if own:
            _reap(started)


def _connect(arguments: dict[str, Any], address: str | None) -> None:
    import ray

    if address is not None:
        _check_answers(address)
    try:
        for name in ("ray", "ray.train", "ray.tune", "ray.data"):
            logging.getLogger(name).setLevel(logging.ERROR)
        ray.init(**arguments)
    except Exception as error:  # Ray raises a bare Exception where its own processes are late
        where = "on this machine" if address is None else f"at {address}"
        reason = str(error).strip().splitlines()
        raise ClusterError(
            f"Ray cannot be started or joined {where}: {reason[0] if reason else type(error).__name__}; "
            "a machine that is busy or out of memory is a common cause; its logs are in /tmp/ray/session_latest/logs"
        ) from error


def _check_answers(address: str) -> None:
    """Ray itself would wait for minutes before it says that nobody is there."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_WITHIN_S).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"--address {address}: nobody answers there ({error}); give the address that ray start printed on the head "
            "node, auto on a node of a cluster, or leave it out for a cluster of this machine"
        ) from error


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
    # A dashboard is a dozen processes that raypo never asks; they would delay every search by seconds.
    return {**common, "address": "local", "num_cpus": cpus, "include_dashboard": False}


def check_resources(study: Study, growing: bool, mirrored: bool = False) -> None:
    """Compare what the slots need with what the cluster has.

    In a `growing` cluster, which is not of our own, one slot has to fit into what it has or its autoscaler may add;
    the others wait for nodes. A search that is `mirrored` by an object store has a copy on every node.

    Raises:
        ClusterError: the slots would wait for ever, or their workers would not find each other's files.
    """
    import ray

    wanted = study.resources
    if mirrored and (growing or len(ray.nodes()) > 1):
        _check_one_copy(wanted)
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
    if not (growing and any(_to_come(name) for name in ("GPU", "CPU"))):
        _check_placement(wanted, slots, ray.nodes())


def _check_one_copy(wanted: Resources) -> None:
    """The workers of a slot share files, which an object store leaves on the node of the first one.

    Raises:
        ClusterError: a slot could be on several nodes.
    """
    if wanted.workers > 1 and wanted.placement != "STRICT_PACK":
        raise ClusterError(
            f"resources: placement {wanted.placement} may put the {wanted.workers} workers of a slot on several nodes, "
            "each with its own copy of what is in an object store; set resources.placement to STRICT_PACK, or keep the "
            "search in a folder that all nodes share"
        )


def _check_placement(wanted: Resources, slots: int, nodes: list[dict[str, Any]]) -> None:
    """Compare where the workers of each slot have to be with what the single nodes hold.

    Raises:
        ClusterError: a slot would wait for ever.
    """
    each = {"GPU": wanted.gpus_per_worker, "CPU": wanted.cpus_per_worker}
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    whole = wanted.slots * wanted.workers  # a worker that takes nothing fits anywhere
    rooms = [min((int(has.get(n, 0) / k + 1e-9) for n, k in each.items() if k), default=whole) for has in alive]
    if wanted.placement == "STRICT_PACK":
        fit, where = sum(room // wanted.workers for room in rooms), "all on one node"
    elif wanted.placement == "STRICT_SPREAD":
        fit, where = sum(min(room, slots) for room in rooms) // wanted.workers, "each on a node of its own"
    else:
        fit, where = sum(rooms) // wanted.workers, "none of them divided between nodes"
    if fit < slots:
        raise ClusterError(
            f"resources: placement {wanted.placement} puts the {wanted.workers} workers of a slot {where}, for {slots} "
            f"slot(s), the cluster has {len(rooms)} node(s) with room for {', '.join(map(str, rooms))} workers; set "
            "resources.placement to PACK, lower resources.slots, resources.workers or what a worker takes, or add nodes"
        )


def _to_come(resource: str) -> float:
    """How much of a resource a cluster can have once its autoscaler has added all it may; 0 without one."""
    from ray._private.state import state

    return float((state.get_max_resources_from_cluster_config() or {}).get(resource, 0))


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
    _, alive = psutil.wait_procs(list(processes), timeout=1)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=3)
