"""Optimizers and learning-rate schedules by name; both start afresh from plain numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from raypo.training.settings import Optimisation, OptimizerName


def make_optimizer(name: OptimizerName, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """An optimizer of torch.optim; matrices decay, vectors (norms, biases) do not. Numbers come from `configure`."""
    trainable = [p for p in parameters if p.requires_grad]
    sizes = [getattr(p, "ds_shape", p.shape) for p in trainable]
    groups: list[dict[str, Any]] = [
        {"params": [p for p, size in zip(trainable, sizes, strict=True) if (len(size) > 1) == decays], "decays": decays}
        for decays in (True, False)
    ]
    groups = [group for group in groups if group["params"]]
    if name == "adamw":
        # One pass over memory: DeepSpeed hands over one flat tensor, whose temporaries would cost more than the update.
        return torch.optim.AdamW(groups, fused=True)
    if name == "rmsprop":
        return torch.optim.RMSprop(groups)
    return torch.optim.Adafactor(groups)


def configure(optimizer: torch.optim.Optimizer, optimisation: Optimisation) -> None:
    """Write an optimisation's numbers into the parameter groups."""
    for group in optimizer.param_groups:
        group["weight_decay"] = optimisation.weight_decay if group["decays"] else 0.0
        if "betas" in group:
            group["betas"] = optimisation.betas
        if isinstance(group.get("eps"), float):
            group["eps"] = optimisation.eps


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def lr_at(step: int, total: int, optimisation: Optimisation) -> float:
    """Learning rate of optimizer step `step` (from 0) of `total`: a linear rise, then the schedule down to 0.

    >>> o = Optimisation(lr=1.0, batch_size=1, steps=10, schedule="linear", warmup=0.2)
    >>> [round(lr_at(s, 10, o), 3) for s in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.125]
    """
    rise = round(optimisation.warmup * total)
    if step < rise:
        return optimisation.lr * (step + 1) / rise
    done = (step - rise) / max(1, total - rise)
    factors = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}
    return optimisation.lr * factors[optimisation.schedule]
