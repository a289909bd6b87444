"""What a method remembers survives stop and resume bit for bit, whatever it is."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from rank_jobs import go_on, weights
from training_parts import build_model, token_set

from raypo.methods import METHODS
from raypo.training.settings import EngineSetup, Optimisation, Run
from raypo.training.trainer import Trainer

STATEFUL = {
    "beta_dpo": {"a": 1.0, "drop": 0.3},
    "epsilon_dpo": {"beta": 0.3, "epsilon": 0.05},
    "tr_dpo": {"tau": 2, "alpha": 0.3},
}


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> EngineSetup:
    return EngineSetup(build_model(tmp_path_factory.mktemp("model")), zero_stage=0, micro_batch_size=3)


def test_no_method_with_a_state_is_left_out() -> None:
    assert STATEFUL.keys() == {name for name, method in METHODS.items() if method.state_type}


@pytest.mark.parametrize("method", STATEFUL)
def test_stopped_at_every_step_and_resumed_in_a_new_trainer(setup: EngineSetup, method: str, tmp_path: Path) -> None:
    run = Run(method, STATEFUL[method], Optimisation(lr=1e-3, batch_size=6, steps=7), seed=1)
    straight = begun(setup, run)
    first = asdict(straight.running.supply.state)
    losses = go_on(straight)
    pieces: list[Any] = []
    for step in range(7):
        trainer = begun(setup, run)
        if step:
            trainer.load(tmp_path / str(step))
        pieces += go_on(trainer, step + 1)
        trainer.save(tmp_path / str(step + 1))
    assert pieces == losses
    assert asdict(trainer.running.supply.state) == asdict(straight.running.supply.state) != first
    assert torch.equal(weights(trainer), weights(straight))
    if straight.running.supply.moving is not None:
        ours, theirs = (t.running.supply.moving.parameters for t in (trainer, straight))
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        assert not all(torch.equal(a, b) for a, b in zip(ours, trainer.engine.start, strict=False))


def begun(setup: EngineSetup, run: Run) -> Trainer:
    trainer = Trainer(setup)
    trainer.begin(run, token_set())
    return trainer
