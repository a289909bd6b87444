"""What the tests let several ranks do: plain functions, importable by spawned processes."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training_parts import token_set
from transformers import PreTrainedModel

from raypo.errors import Diverged, StorageError
from raypo.search import checkpoints
from raypo.training import comm
from raypo.training.frozen import frozen_hidden, frozen_logps
from raypo.training.settings import EngineSetup, Optimisation, Run
from raypo.training.trainer import Trainer
from raypo.training.writing import write_together

DPO = Run("dpo", {"beta": 0.5}, Optimisation(lr=5e-4, batch_size=7, steps=20, weight_decay=0.1), seed=3)
OTHERS = [
    Run("epsilon_dpo", {"beta": 0.3, "epsilon": 0.05}, Optimisation(lr=1e-3, batch_size=5, epochs=1), seed=1),
    Run("simpo", {}, Optimisation(lr=1e-3, batch_size=4, epochs=1, schedule="linear", gradient_clipping=0.1), seed=2),
    Run("tr_dpo", {"tau": 2, "alpha": 0.5}, Optimisation(lr=1e-3, batch_size=6, epochs=1, betas=(0.8, 0.9)), seed=4),
]


def losses(trainer: Trainer, run: Run, until: int = 10**6) -> list[tuple[float, float]]:
    """(loss, gradient norm) of each step of a run on the pairs of all tests."""
    trainer.begin(run, token_set())
    return go_on(trainer, until)


def go_on(trainer: Trainer, until: int = 10**6) -> list[tuple[float, float]]:
    seen: list[tuple[float, float]] = []
    trainer.train(until, lambda m: seen.append((m["loss"], m["grad_norm"])))
    return seen


def gradient(trainer: Trainer, run: Run, kind: str = "pairs", **data: Any) -> torch.Tensor:
    """The whole gradient of a run's first step, flat."""
    trainer.begin(run, token_set(kind, **data))
    trainer.running.gradient(0)
    if trainer.setup.zero_stage == 0:
        parts = [p.grad if p.grad is not None else torch.zeros_like(p) for p in trainer.engine.trainable]
    else:
        from deepspeed.utils import safe_get_full_grad

        parts = [safe_get_full_grad(p) for p in trainer.engine.trainable]
    flat = torch.cat([part.flatten() for part in parts])
    trainer.engine.step(0.0)
    return flat


def weights(trainer: Trainer) -> torch.Tensor:
    with trainer.policy() as lm:
        return torch.cat([p.detach().flatten().clone() for p in lm.parameters()])


def stage(setup: EngineSetup, folder: str) -> dict[str, Any]:
    """Everything that the tests want to know of one engine, in one process group."""
    trainer = Trainer(setup)
    found: dict[str, Any] = {"cold": losses(trainer, DPO), "final": weights(trainer)}
    found["metrics"] = trainer.evaluate(token_set(seed=9))
    found["others"] = [losses(trainer, run) for run in OTHERS]
    found["diverges"] = diverges(trainer)
    found["warm"], found["warm_final"] = losses(trainer, DPO), weights(trainer)
    found["resumed"] = {run.method: resumed(trainer, run, Path(folder) / run.method) for run in [DPO, *OTHERS]}
    found["gradient"] = gradient(trainer, DPO)
    found["logps"] = sampled(trainer)
    trainer.begin(DPO, token_set())
    trainer.train(3)
    trainer.export(Path(folder) / "export")
    found["exported"] = weights(trainer)
    save(trainer, Path(folder) / "three")
    found["after"] = go_on(trainer)
    trainer.close()
    return found


def diverges(trainer: Trainer) -> str:
    """A learning rate of 1e30 ends in Diverged, and leaves the engine fit for the next run."""
    run = Run("dpo", {}, Optimisation(lr=1e30, batch_size=4, steps=20, gradient_clipping=0.0), seed=0)
    try:
        losses(trainer, run)
    except Diverged as error:
        return str(error)
    return ""


def resumed(trainer: Trainer, run: Run, folder: Path) -> tuple[list[Any], list[Any]]:
    """A run in one go, and the same run stopped at every other step and loaded into a fresh start."""
    straight = losses(trainer, run)
    pieces: list[Any] = []
    for until in range(2, len(straight) + 2, 2):
        trainer.begin(run, token_set())
        if pieces:
            trainer.load(folder / str(len(pieces)))
        pieces += go_on(trainer, until)
        save(trainer, folder / str(len(pieces)))
        if len(pieces) >= 6:
            break
    return straight[: len(pieces)], pieces


def save(trainer: Trainer, folder: Path) -> None:
    """A checkpoint that is whole for every rank."""
    write_together(lambda: trainer.save(folder), f"{folder}: the checkpoint")


def on_a_full_disk(stage: int, folder: str, broken: int) -> dict[str, str]:
    """What a rank is told where the disk of one is full: of a checkpoint, and of the model; then both are written."""
    trainer, told = Trainer(EngineSetup(f"{folder}/model", zero_stage=stage, micro_batch_size=2)), {}
    trainer.begin(DPO, token_set())
    trainer.train(1)
    writes: dict[str, Callable[[], object]] = {
        "checkpoint": lambda: checkpoints.write(Path(folder) / "checkpoints", 1, trainer.save),
        "model": lambda: checkpoints.publish(Path(folder) / "exported", trainer.export),
    }
    for what, write in writes.items():
        with pytest.MonkeyPatch.context() as patch:
            if comm.rank() == broken:
                patch.setattr(torch, "save", _full)
                patch.setattr(PreTrainedModel, "save_pretrained", _full)
            try:
                write()
            except StorageError as error:
                told[what] = str(error)
        write()
    trainer.begin(DPO, token_set())
    trainer.load(Path(folder) / "checkpoints/step-00000001")
    told["step"] = str(trainer.step)
    trainer.close()
    return told


def _full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def sampled(trainer: Trainer) -> list[list[float]]:
    """Log-probs of two made-up answers under the start model and under a trained policy, one answer per call."""
    trainer.begin(DPO, token_set())
    trainer.train(3)
    policy, reference = trainer.sample_logps([([1, 2, 3], [4, 5, 6, 7]), ([9], [8, 7])])
    return [row.tolist() for row in [*policy, *reference]]


def load_at_other_size(setup: EngineSetup, folder: str) -> list[tuple[float, float]]:
    """Go on from the checkpoint of `stage` after three steps."""
    trainer = Trainer(setup)
    trainer.begin(DPO, token_set())
    trainer.load(Path(folder) / "three")
    after = go_on(trainer)
    trainer.close()
    return after


def gradients(setups: list[EngineSetup], runs: list[tuple[Run, str]]) -> list[list[torch.Tensor]]:
    """[run][setup] first-step gradients; an engine serves all runs."""
    columns = []
    for setup in setups:
        trainer = Trainer(setup)
        columns.append([gradient(trainer, run, kind) for run, kind in runs])
        trainer.close()
    return [list(row) for row in zip(*columns, strict=True)]


def finite(values: list[tuple[float, float]]) -> bool:
    return all(math.isfinite(x) for pair in values for x in pair)


def with_stored_hidden(setup: EngineSetup) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """epsilon-DPO's metrics with a live reference, and in a new trainer with its stored hidden states."""
    run, tokens, trainer = OTHERS[0], token_set(), Trainer(setup)
    trainer.begin(run, tokens)
    live: list[dict[str, float]] = []
    trainer.train(10**6, live.append)
    call, device = trainer.reference.forward, trainer.engine.device
    settings = (call, tokens, trainer.layout(tokens), setup.micro_batch_size, device)
    frozen = {"reference": frozen_logps(*settings), "hidden": frozen_hidden(*settings)}
    trainer.close()
    trainer = Trainer(setup)
    trainer.begin(run, tokens, frozen)
    stored: list[dict[str, float]] = []
    trainer.train(10**6, stored.append)
    assert trainer._reference is None
    trainer.close()
    return live, stored
