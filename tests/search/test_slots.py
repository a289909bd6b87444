"""Ranks of a slot may wait for one for as long as its work takes; a slot ends a group that cannot go on."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.train.torch
import torch
import torch.distributed as dist
from ray.train import ControllerError, WorkerGroupError
from ray.train.torch.config import _setup_torch_process_group
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

from raypo.errors import ClusterError, StorageError
from raypo.search.jobs import Job
from raypo.search.slots import PulseSender, Slot, SlotPlan, _broken

DAY_S = 24 * 3600


@pytest.mark.parametrize(("gpus", "backend"), [(0, "gloo"), (1, "nccl")])
def test_who_waits_for_another_rank_waits_for_days(
    gpus: float, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: dict[str, Any] = {}

    class Trainer:
        def __init__(self, *_: object, **arguments: Any) -> None:
            made.update(arguments)

        def fit(self) -> None:
            """Nothing to train."""

    monkeypatch.setattr(ray.train.torch, "TorchTrainer", Trainer)
    Slot(SlotPlan("hh", "slot-0", "", "", "", {}, 2, 1, gpus, "PACK", str(tmp_path)))._fit()
    config = asdict(made["torch_config"])
    assert (config["backend"], config["init_method"]) == (backend, "env")
    assert config["timeout_s"] > 3 * DAY_S
    _setup_torch_process_group("gloo", 0, 1, f"file://{tmp_path}/group", config["timeout_s"])
    try:
        options = dist.group.WORLD._get_backend(torch.device("cpu")).options
        assert options._timeout.total_seconds() == config["timeout_s"], "torch takes it as it is"
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    ("error", "broken"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (MemoryError(), True),
        (ClusterError("training: out of memory with 8 examples in 8 rows of up to 64 tokens"), True),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(...)`"), True),
        (dist.DistBackendError("Tensors must be CUDA and dense"), True),
        (dist.DistNetworkError("The client socket has timed out"), True),
        (RuntimeError("[gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4711"), True),
        (RuntimeError("shapes do not match"), False),
        (StorageError("step-00000008: the checkpoint could not be written, the disk is full"), False),
        (ValueError("NCCL is no method"), False),
    ],
)
def test_a_process_whose_device_or_group_is_broken_serves_no_more(error: Exception, broken: bool) -> None:
    assert _broken(error) == broken


class Group(Slot):
    """A slot whose worker groups end with the errors that it is told, after so many jobs each; then it closes."""

    def __init__(self, folder: Path, ends: list[tuple[Exception, int]]) -> None:
        super().__init__(SlotPlan("hh", "slot-0", "", "", "", {}, 1, 1, 0, "PACK", str(folder)))
        self.ends, self.jobs, self.gone = ends, 0, False
        self._closing.wait = lambda timeout=None: self._closing.is_set()  # type: ignore[method-assign]  # noqa: ARG005

    def _fit(self) -> None:
        if not self.ends:
            self._closing.set()
            return
        error, jobs = self.ends.pop(0)
        self.jobs += jobs
        raise error

    def _asked(self, what: str) -> Any:
        self.gone = self.gone or what == "gone"
        return self.jobs


DIED = WorkerGroupError("rank 0 is gone", {})
LOST = RuntimeError("the controller is gone")
NO_ROOM = ControllerError(WorkerGroupStartupTimeoutError(2))


@pytest.mark.parametrize(
    ("ends", "given_up"),
    [
        ([(DIED, 1)] * 20, False),
        ([(NO_ROOM, 0)] * 20, False),
        ([(LOST, 0)] * 4 + [(LOST, 1)] + [(LOST, 0)] * 4, False),
        ([(LOST, 0)] * 5, True),
        ([(LOST, 0)] * 3 + [(NO_ROOM, 0)] + [(LOST, 0)] * 4, False),
        ([(DIED, 1), (DIED, 0)], True),
    ],
)
def test_only_groups_that_are_never_given_a_job_cost_their_slot(
    tmp_path: Path, ends: list[tuple[Exception, int]], given_up: bool
) -> None:
    slot = Group(tmp_path, list(ends))
    slot.start()
    slot._thread.join(20)
    assert (slot.error is not None, slot.gone, slot.ends) == (given_up, given_up, [])


class Answers:
    """A pool that answers a pulse after a while, as a task of Ray does; `go_on` is what it says."""

    go_on = True
    pulse: Any = None

    def __init__(self) -> None:
        self.pulse = self

    def remote(self, *_: object) -> tuple[float, bool]:
        return time.monotonic() + 0.002, self.go_on


def test_a_slow_step_hears_at_its_end_what_was_asked_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(pending: list[tuple[float, bool]], timeout: float) -> tuple[list[Any], list[Any]]:
        time.sleep(max(0.0, min(timeout, pending[0][0] - time.monotonic())))
        return (pending, []) if time.monotonic() >= pending[0][0] else ([], pending)

    monkeypatch.setattr(ray, "wait", wait)
    monkeypatch.setattr(ray, "get", lambda answer: answer[1])
    pool = Answers()
    pulse = PulseSender(pool, "slot-0", "a", Job("t-0", "dpo", {}, 0, 1.0), 0)
    pulse(0.1, "training")
    assert not pulse.cancelled
    time.sleep(0.7)
    pool.go_on = False
    pulse(0.2, "training")
    assert pulse.cancelled
