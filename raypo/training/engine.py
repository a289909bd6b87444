"""The engines: plain data-parallel PyTorch, and DeepSpeed's ZeRO 1-3, behind one small interface.

An engine owns the policy's weights and their optimizer. `reset` gives back, in place, exactly what a new engine would
hold, so that a warm run repeats a cold one bit for bit. Losses come in as this rank's share of the global mean:
engines sum gradients over ranks and never divide.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from raypo.errors import StorageError
from raypo.training import comm
from raypo.training.layout import Pass
from raypo.training.model import Forward, Policy, load_policy
from raypo.training.optim import configure, make_optimizer, set_lr
from raypo.training.settings import EngineSetup, Optimisation


class Engine(Protocol):
    """What the trainer knows of an engine."""

    policy: Policy
    device: torch.device
    start: list[Tensor]

    def local(self) -> list[Tensor]:
        """What this rank holds of each trained parameter, in the order of `start`."""
        ...

    def forward(self, passes: tuple[Pass, ...]) -> Forward:
        """Log-probs and hidden states of the scored tokens, with gradient where it is enabled."""
        ...

    def backward(self, loss: Tensor, last: bool) -> None:
        """Add a micro-batch's gradient; `last` marks the final one before `step`."""
        ...

    def step(self, lr: float) -> float:
        """Clip, update, forget the gradients; returns the norm before clipping, and updates nothing if not finite."""
        ...

    def reset(self, optimisation: Optimisation) -> None:
        """Start weights, empty optimizer, no gradients, and the numbers of `optimisation`."""
        ...

    def gathered(self, parameters: list[nn.Parameter]) -> AbstractContextManager[None]:
        """Context in which every rank sees these parameters whole."""
        ...

    def save(self, folder: Path) -> None:
        """Write weights and optimizer into a new folder, every rank its part.

        No rank waits for one whose disk is full: that one raises once the others need it no more.
        """
        ...

    def load(self, folder: Path) -> None:
        """Read what `save` wrote; raises StorageError where it cannot be used."""
        ...

    def close(self) -> None:
        """Free what outlives the object's references."""
        ...


def make_engine(setup: EngineSetup, critic: bool = False) -> Engine:
    """The engine of a setup, its policy with a critic head or without."""
    if setup.zero_stage == 0:
        return PlainEngine(setup, critic)
    from raypo.training.zero import ZeroEngine

    return ZeroEngine(setup, critic)


class PlainEngine:
    """fp32 weights, whole on every rank; gradients are summed over ranks once a step."""

    def __init__(self, setup: EngineSetup, critic: bool) -> None:
        self.device = comm.device()
        self.policy = load_policy(setup, critic).to(self.device)
        self.trainable = [p for p in self.policy.parameters() if p.requires_grad]
        self.start = [p.detach().cpu().clone() for p in self.trainable]
        self.optimizer = make_optimizer(setup.optimizer, self.trainable)
        self.clipping = 0.0

    def local(self) -> list[Tensor]:
        return [p.detach() for p in self.trainable]

    def forward(self, passes: tuple[Pass, ...]) -> Forward:
        return Forward(*self.policy(passes))

    def backward(self, loss: Tensor, last: bool) -> None:
        loss.backward()
        if last and comm.world() > 1:
            self._sum_gradients()

    def _sum_gradients(self) -> None:
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.trainable]
        flat = comm.total(torch.cat([g.flatten() for g in gradients]))
        for p, part in zip(self.trainable, flat.split([p.numel() for p in self.trainable]), strict=True):
            p.grad = part.view_as(p)

    def step(self, lr: float) -> float:
        gradients = [p.grad for p in self.trainable if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.clipping > 0:
            torch.nn.utils.clip_grads_with_norm_(self.trainable, self.clipping, norm)
        if torch.isfinite(norm):
            set_lr(self.optimizer, lr)
            self.optimizer.step()
        self.optimizer.zero_grad()
        return float(norm)

    def reset(self, optimisation: Optimisation) -> None:
        with torch.no_grad():
            for p, start in zip(self.trainable, self.start, strict=True):
                p.copy_(start)
        self.optimizer.zero_grad()
        self.optimizer.state.clear()
        configure(self.optimizer, optimisation)
        self.clipping = optimisation.gradient_clipping

    def gathered(self, parameters: list[nn.Parameter]) -> AbstractContextManager[None]:  # noqa: ARG002 - always whole
        return nullcontext()

    def save(self, folder: Path) -> None:
        if comm.rank() == 0:
            state = {"weights": [p.detach() for p in self.trainable], "optimizer": self.optimizer.state_dict()}
            torch.save(state, folder / "plain.pt")

    def load(self, folder: Path) -> None:
        file = folder / "plain.pt"
        if not file.exists():
            raise StorageError(f"{folder}: no checkpoint of zero_stage 0 here; resume with the stage it was saved with")
        state = torch.load(file, map_location=self.device, weights_only=True)
        with torch.no_grad():
            for p, saved in zip(self.trainable, state["weights"], strict=True):
                p.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])

    def close(self) -> None:
        self.optimizer.state.clear()
