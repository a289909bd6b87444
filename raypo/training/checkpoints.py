"""A run's checkpoint: engine, method state, moving reference, generators and place in the data, by all ranks."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from raypo.errors import StorageError
from raypo.training import comm

if TYPE_CHECKING:
    from raypo.training.trainer import Trainer

FORMAT = 1


def save(trainer: Trainer, folder: Path) -> None:
    """Write this rank's part into a new folder; complete when every rank has returned, which the caller sees to.

    What goes wrong on the disk is raised by the rank that it befell, and no other one waits for it here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trainer.engine.save(folder)
    supply = trainer.running.supply
    if supply.moving is not None:
        supply.moving.save(folder)
    torch.save(torch.get_rng_state(), folder / f"generator-{comm.rank()}.pt")
    if comm.rank() == 0:
        state = {
            "format": FORMAT,
            "step": trainer.step,
            "total_steps": trainer.total_steps,
            "method": trainer.running.run.method,
            "seed": trainer.running.run.seed,
            "world": comm.world(),
            "zero_stage": trainer.setup.zero_stage,
            "state": None if supply.state is None else asdict(supply.state),
        }
        (folder / "run.json").write_text(json.dumps(state, indent=1))


def load(trainer: Trainer, folder: Path) -> None:
    """Restore a checkpoint of the run that `begin` has just started."""
    try:
        saved = json.loads((folder / "run.json").read_text())
    except FileNotFoundError:
        raise StorageError(f"{folder}: no checkpoint here, run.json is missing") from None
    expected = {
        "format": FORMAT,
        "total_steps": trainer.total_steps,
        "method": trainer.running.run.method,
        "seed": trainer.running.run.seed,
        "zero_stage": trainer.setup.zero_stage,
    }
    for name, value in expected.items():
        if saved[name] != value:
            raise StorageError(f"{folder}: belongs to another run, {name} is {saved[name]}; this one has {value}")
    trainer.engine.load(folder)
    supply = trainer.running.supply
    if supply.moving is not None:
        supply.moving.load(folder)
    if supply.state is not None:
        supply.state = type(supply.state)(**saved["state"])
    generator = folder / f"generator-{comm.rank()}.pt"
    if generator.exists():
        torch.set_rng_state(torch.load(generator, weights_only=True))
    trainer.step = saved["step"]
