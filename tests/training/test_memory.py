"""Out of memory: the message says what was in the batch and what to lower, and the trainer lives on."""

import pytest
import torch
from rank_jobs import DPO, losses
from training_parts import build_model, token_set

from raypo.errors import ClusterError
from raypo.training.settings import EngineSetup
from raypo.training.trainer import Trainer


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried ..."),
    MemoryError(),
])  # fmt: skip
def test_it_is_said_and_survived(tmp_path, monkeypatch, error):
    trainer = Trainer(EngineSetup(build_model(tmp_path), zero_stage=0, micro_batch_size=3))
    cold = losses(trainer, DPO, until=3)
    trainer.begin(DPO, token_set())
    backward, calls = trainer.engine.backward, []

    def fails_second(loss: torch.Tensor, last: bool) -> None:
        calls.append(loss)
        if len(calls) == 2:
            raise error
        backward(loss, last)

    monkeypatch.setattr(trainer.engine, "backward", fails_second)
    with pytest.raises(
        ClusterError, match=r"out of memory with [23] examples in [23] rows of up to \d+ tokens"
    ) as told:
        trainer.train(3)
    assert "lower training.micro_batch_size or data.max_length" in str(told.value)
    assert "model.gradient_checkpointing: true" in str(told.value)
    assert "resources.zero_stage: 3 (now 0)" in str(told.value)
    assert losses(trainer, DPO, until=3) == cold  # half a gradient is not carried over


def test_other_errors_pass_as_they_are(tmp_path, monkeypatch):
    trainer = Trainer(EngineSetup(build_model(tmp_path), zero_stage=0))
    trainer.begin(DPO, token_set())

    def fails(loss: torch.Tensor, last: bool) -> None:  # noqa: ARG001
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(trainer.engine, "backward", fails)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        trainer.train(1)
