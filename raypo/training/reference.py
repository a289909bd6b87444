"""Live references: the start model beside the policy, frozen, or moving toward the policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from raypo.errors import MethodError
from raypo.training import comm
from raypo.training.engine import Engine
from raypo.training.layout import Pass
from raypo.training.model import Forward, Head, Policy, load_policy
from raypo.training.settings import EngineSetup


class LiveCopy:
    """A second model in evaluation, started from the policy's start weights.

    With an adapter the copy is the policy itself with the adapter off. Under ZeRO-3 it is partitioned as the policy
    is, so that mixing needs no communication. Otherwise a frozen copy on a CPU shares the start weights' memory.
    """

    def __init__(self, setup: EngineSetup, engine: Engine, moving: bool) -> None:
        self.engine, self.adapted = engine, setup.lora is not None
        if self.adapted and moving:
            raise MethodError(
                "moving reference: cannot be mixed from adapters, for the mean of two adapters is not the adapter of "
                "the mean; train without model.lora, or choose a method with a frozen reference"
            )
        self.resting = False
        self.policy: Policy = engine.policy
        self._call: Any = engine.policy
        if not self.adapted:
            self.policy, self._call = _load(setup, engine.device)
            self.parameters = list(self.policy.parameters())
            self.restart(share=not moving)

    @torch.no_grad()
    def restart(self, share: bool = False) -> None:
        """Back to the start weights."""
        starts = self.engine.start[: len(self.parameters)]
        self.masters: list[torch.Tensor] | None = None
        self.resting = False
        for p, start in zip(self.parameters, starts, strict=True):
            if share and not hasattr(p, "ds_tensor"):
                p.data = start.to(self.engine.device)
            else:
                getattr(p, "ds_tensor", p).data.copy_(start)

    def rest(self) -> None:
        """Of a frozen copy: give a GPU's memory back until the next forward pass; the start weights lie on the host."""
        if self.adapted or self.resting:
            return
        self.resting = True
        for p, start in zip(self.parameters, self.engine.start, strict=False):
            if not hasattr(p, "ds_tensor"):
                p.data = start

    @torch.no_grad()
    def forward(self, passes: tuple[Pass, ...]) -> Forward:
        """Log-probs and hidden states, no gradient."""
        if self.resting:
            self.restart(share=True)
        with self.policy.adapter_off():
            return Forward(*self._call(passes))

    @torch.no_grad()
    def mix(self, share: float) -> None:
        """reference <- share * policy + (1 - share) * reference, kept in fp32 so that small shares are not lost."""
        mine = [getattr(p, "ds_tensor", p).detach() for p in self.parameters]
        if self.masters is None:
            self.masters = [tensor.float() for tensor in mine]
        for tensor, master, policy in zip(mine, self.masters, self.engine.local(), strict=False):
            master.copy_(policy) if share == 1.0 else master.lerp_(policy.float(), share)
            tensor.copy_(master)

    def save(self, folder: Path) -> None:
        """Write what this rank holds of a moving reference."""
        mine = self.masters or [getattr(p, "ds_tensor", p).detach() for p in self.parameters]
        torch.save(mine, folder / f"reference-{comm.rank()}.pt")

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        self.masters = torch.load(
            folder / f"reference-{comm.rank()}.pt", map_location=self.engine.device, weights_only=True
        )
        for p, master in zip(self.parameters, self.masters, strict=True):
            getattr(p, "ds_tensor", p).data.copy_(master)


def present_head(engine: Engine) -> Head:
    """The policy's LM head as it is now, kept: at the start weights, all of the start model that its hidden states need
    to become log-probs."""
    head = engine.policy.head
    with engine.gathered(list(head.parameters())):
        return head.frozen()


def _load(setup: EngineSetup, device: torch.device) -> tuple[Policy, Any]:
    """(model, what to call for a forward pass)."""
    if setup.zero_stage == 3:
        from raypo.training.zero import inference_engine

        engine = inference_engine(setup)
        return engine.module, engine
    policy = load_policy(setup).requires_grad_(False).eval().to(device)
    return policy, policy
