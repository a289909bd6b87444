"""Slots: warm Ray Train worker groups, each kept alive by a thread of the driver."""

from __future__ import annotations

import contextlib
import threading
import uuid
from typing import Any

from raypo.search.serving import SlotPlan, serve
from raypo.training import CPU_ALLOCATION

MAX_IDLE_LIVES = 5
"""How many worker groups in a row may end before a job is given to one of them, until their slot is given up."""
WAIT_S = 7 * 24 * 3600
"""How long ranks may wait for one that works alone; Ray Train, which polls them all, notices a dead one in seconds."""


def _groups(error: Exception) -> int:
    """How many worker groups ended until Ray Train gave up with this error; it rebuilds those that had begun."""
    from ray.train import WorkerGroupError

    return MAX_IDLE_LIVES if isinstance(error, WorkerGroupError) else 1


def _no_room(error: Exception) -> bool:
    """Whether a worker group did not begin for want of a place, which a growing cluster may have later."""
    from ray.train import ControllerError
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

    return isinstance(error, ControllerError) and isinstance(error.controller_failure, WorkerGroupStartupTimeoutError)


class Slot:
    """One worker group, kept alive by a thread of the driver until the pool closes."""

    def __init__(self, plan: SlotPlan) -> None:
        self.plan = plan
        self.error: BaseException | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=plan.slot, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def begin_no_more(self) -> None:
        """Let the present worker group be the last one."""
        self._closing.set()

    def close(self, timeout_s: float) -> bool:
        """Wait for the worker group to leave after the pool was closed; False when it did not in time."""
        self.begin_no_more()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def _keep(self) -> None:
        idle, given = 0, self._asked("given")
        while not self._closing.is_set():
            try:
                self._fit()
                idle = 0
            except Exception as error:
                if self._closing.is_set():
                    return
                before, given = given, self._asked("given")
                idle = 0 if given != before or _no_room(error) else idle + _groups(error)
                if idle >= MAX_IDLE_LIVES:
                    self.error = error
                    self._asked("gone")  # other slots do what this one held
                    return
                if _no_room(error):
                    self._asked("gone")  # they do so too where nobody knows when there will be a place
                self._closing.wait(idle)

    def _asked(self, what: str) -> Any:
        """What the pool answers about this slot; None while it does not."""
        import ray

        with contextlib.suppress(ray.exceptions.RayError, ValueError):
            pool = ray.get_actor(self.plan.pool, namespace=self.plan.namespace)
            return ray.get(getattr(pool, what).remote(self.plan.slot), timeout=5)
        return None

    def _fit(self) -> None:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig

        from raypo.search.groups import GroupTrainer

        plan = self.plan
        resources = {"CPU": plan.cpus_per_worker, **({"GPU": plan.gpus_per_worker} if plan.gpus_per_worker else {})}
        trainer = GroupTrainer(
            serve,
            train_loop_config=vars(plan),
            torch_config=TorchConfig(backend="nccl" if plan.gpus_per_worker else "gloo", timeout_s=WAIT_S),
            scaling_config=ScalingConfig(
                num_workers=plan.workers,
                use_gpu=plan.gpus_per_worker > 0,
                resources_per_worker=resources,
                placement_strategy=plan.placement,
            ),
            run_config=RunConfig(
                name=f"{plan.slot}-{uuid.uuid4().hex[:8]}",
                storage_path=plan.folder,
                failure_config=FailureConfig(max_failures=MAX_IDLE_LIVES - 1, controller_failure_limit=0),  # type: ignore[call-arg]
                worker_runtime_env={} if plan.gpus_per_worker else {"env_vars": CPU_ALLOCATION},
            ),
        )
        trainer.fit()
