"""The ranks of a slot say whom an error hits, and hear in time what is asked of their job."""

from __future__ import annotations

import time
from typing import Any

import pytest
import ray
import torch
import torch.distributed as dist

from raypo.errors import ClusterError, StorageError
from raypo.search.jobs import Job
from raypo.search.serving import PulseSender, _broken


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
