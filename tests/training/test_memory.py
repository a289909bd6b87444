"""Out of memory: the message says what was in the batch and what to lower, and the trainer lives on.

What is not needed any more is gone before something else takes its room.
"""

import weakref
from typing import Any

import pytest
import torch
from rank_jobs import DPO, OTHERS, losses
from spawned import on_ranks
from training_parts import build_model, token_set

from raypo.errors import ClusterError
from raypo.training import trainer as module
from raypo.training.settings import EngineSetup, Optimisation, Run
from raypo.training.trainer import Trainer

CRITIC = Run("offline_ppo", {"advantage": "gae"}, Optimisation(lr=1e-3, batch_size=4, steps=2), seed=0)
MOVING = OTHERS[2]


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


@pytest.mark.parametrize("stage", [0, 2])
def test_an_engine_is_gone_before_another_takes_its_place(tmp_path, stage):
    """For a critic, after an error that left half a gradient behind, and in a new trainer."""
    assert on_ranks(1, replaced, EngineSetup(build_model(tmp_path), zero_stage=stage)) == [["gone"] * 3]


def replaced(setup: EngineSetup) -> list[str]:
    trainer, found = Trainer(setup), []
    build = module.make_engine

    def looking(*how: Any) -> Any:
        found.append("gone" if old() is None else "in memory")
        return build(*how)

    module.make_engine = looking
    losses(trainer, DPO, until=1)
    trainer.reference.rest()
    old = weakref.ref(trainer.engine.policy.plain)
    trainer.begin(CRITIC, token_set("unpaired"))
    old, trainer._dirty = weakref.ref(trainer.engine.policy.plain), True
    trainer.begin(DPO, token_set())
    old = weakref.ref(trainer.engine.policy.plain)
    trainer.close()
    Trainer(setup).close()
    return found


def test_an_engine_that_could_not_be_built_is_built_for_the_next_run(tmp_path, monkeypatch):
    trainer = Trainer(EngineSetup(build_model(tmp_path), zero_stage=0))
    cold = losses(trainer, DPO, until=2)

    def fails(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(module, "make_engine", fails)
        with pytest.raises(MemoryError):
            trainer.begin(CRITIC, token_set("unpaired"))
    assert trainer.closed
    assert losses(trainer, DPO, until=2) == cold


def test_a_moving_reference_is_gone_once_a_method_without_one_begins(tmp_path):
    trainer = Trainer(EngineSetup(build_model(tmp_path), zero_stage=0))
    moved = losses(trainer, MOVING)
    second = weakref.ref(trainer.running.supply.moving.policy)
    losses(trainer, DPO, until=1)
    assert second() is None
    assert losses(trainer, MOVING) == moved
