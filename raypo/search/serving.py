"""The inside of a slot: the loop that every rank of its worker group runs, job after job."""

from __future__ import annotations

import importlib
import os
import time
import traceback
import uuid
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from raypo.errors import Diverged, Hindrance, RaypoError
from raypo.search.folders import read_json, revision_file
from raypo.search.jobs import Fault, Job, Outcome, Pulse
from raypo.search.remote import WorkingCopy
from raypo.search.usage import measured
from raypo.training.writing import is_full, is_out_of_reach

PULSE_S = 0.5
BREAKING = ("CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS", "NCCL", "gloo/")
"""Words of errors that a device, or what connects the ranks, does not survive; torch has no class for all of them."""


class Bench(Protocol):
    """What a slot works at: it keeps models, data and engine between jobs."""

    def run(self, job: Job, pulse: PulseSender) -> Outcome: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class SlotPlan:
    """How one slot is built; `bench` is the import path of its Bench, made with `bench_settings`."""

    search: str
    slot: str
    pool: str
    namespace: str
    bench: str
    bench_settings: dict[str, Any]
    workers: int
    cpus_per_worker: float
    gpus_per_worker: float
    placement: str
    folder: str
    revision: int = 0
    """Of the study in `bench_settings`; later ones are in the search's folder."""


class PulseSender:
    """Tells the pool now and then where a job is, and learns whether it was cancelled."""

    def __init__(self, pool: Any, slot: str, attempt: str, job: Job, rank: int) -> None:
        self._pool, self._slot, self._attempt, self._job, self._rank = pool, slot, attempt, job, rank
        self._last = 0.0
        self._pending: Any = None
        self.cancelled = False

    def __call__(self, fraction: float, stage: str, loss: float | None = None, saved: float = 0.0) -> None:
        """Send at most every PULSE_S seconds, and wait for the answer no longer than the steps since do not notice."""
        since = time.monotonic() - self._last
        if self._rank != 0 or since < PULSE_S:
            return
        self._last = time.monotonic()
        if not self._answered(within_s=0):
            return
        pulse = Pulse(self._job.id, self._job.trial, fraction, stage, loss, saved)
        self._pending = self._pool.pulse.remote(self._slot, self._attempt, pulse, self._job)
        self._answered(within_s=min(0.01 * since, PULSE_S))

    def ours(self) -> bool:
        """Whether this worker group still has the job; waits for the answer, for without one nobody can tell."""
        import ray

        return self._rank != 0 or bool(ray.get(self._pool.holds.remote(self._slot, self._attempt, self._job)))

    def _answered(self, within_s: float) -> bool:
        """Whether no answer is waited for any more."""
        import ray

        if self._pending is not None and ray.wait([self._pending], timeout=within_s)[0]:
            self.cancelled = self.cancelled or not ray.get(self._pending)
            self._pending = None
        return self._pending is None


def serve(config: dict[str, Any]) -> None:
    """The training function of a slot, run by every rank: ask for a job, do it, deliver, ask again."""
    import ray
    import ray.train.torch

    plan = SlotPlan(**config)
    rank = ray.train.get_context().get_world_rank()
    pool = ray.get_actor(plan.pool, namespace=plan.namespace)
    attempt = _agree_on_attempt()
    node = ray.get_runtime_context().get_node_id()
    ray.get(pool.enter.remote(plan.slot, attempt, rank, node, os.getpid()))
    bench = _Lazy(plan)
    index = 0
    device = ray.train.torch.get_device() if plan.gpus_per_worker else None
    with measured(partial(pool.used.remote, plan.slot, attempt, rank), device):
        try:
            while (job := ray.get(pool.next_job.remote(plan.slot, attempt, index))) is not None:
                _serve_one(bench, job, pool, plan.slot, attempt, rank)
                index += 1
        finally:
            bench.close()


class _Lazy:
    """The bench, made with the first job, so that what goes wrong there is that job's failure and is told."""

    def __init__(self, plan: SlotPlan) -> None:
        self._plan = plan
        self._bench: Bench | None = None
        self._revision = plan.revision

    def run(self, job: Job, pulse: PulseSender) -> Outcome:
        if job.revision > self._revision:
            self.close()
            self._bench, self._revision = None, job.revision
        if self._bench is None:
            module, _, name = self._plan.bench.partition(":")
            self._bench = getattr(importlib.import_module(module), name)(**self._settings())
        return self._bench.run(job, pulse)

    def close(self) -> None:
        if self._bench is not None:
            self._bench.close()

    def _settings(self) -> dict[str, Any]:
        if self._revision == self._plan.revision:
            return self._plan.bench_settings
        search = WorkingCopy(self._plan.bench_settings["folder"], of="slots")
        path = revision_file(search.path, self._revision)
        search.pull(path)
        return {**self._plan.bench_settings, "study": read_json(path)}


def _serve_one(bench: Bench, job: Job, pool: Any, slot: str, attempt: str, rank: int) -> None:
    import ray

    try:
        outcome = bench.run(job, PulseSender(pool, slot, attempt, job, rank))
    except Diverged as error:
        outcome = Outcome(job.trial, "diverged", 0.0, reason=str(error))
    except Exception as error:
        traceback.print_exc()
        if not ray.get(pool.failed.remote(slot, attempt, rank, job, _told(error), _fault(error))):
            raise
        return
    if rank == 0:
        ray.get(pool.finished.remote(slot, attempt, outcome, job))


def _told(error: Exception) -> str:
    """A user's mistake in its own words; anything else with the place where it happened."""
    if isinstance(error, RaypoError):
        return str(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(frame.filename).name}:{frame.lineno})"


def _fault(error: Exception) -> Fault:
    if is_full(error) or is_out_of_reach(error) or isinstance(error, Hindrance):
        return "search"
    return "slot" if _broken(error) else "job"


def _broken(error: Exception) -> bool:
    """Whether this process cannot be trusted any more: a CUDA error, an out-of-memory, a lost communicator."""
    from torch.distributed import DistError

    from raypo.training.memory import is_out_of_memory

    told = isinstance(error, RuntimeError) and any(word in str(error) for word in BREAKING)
    return told or isinstance(error, DistError) or is_out_of_memory(error)


def _agree_on_attempt() -> str:
    """One identifier of this worker group, the same on every rank."""
    import torch.distributed as dist

    names: list[str | None] = [uuid.uuid4().hex]
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.broadcast_object_list(names, src=0)
    return str(names[0])
