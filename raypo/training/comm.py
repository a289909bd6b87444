"""What ranks say to each other. Alone, every function does the obvious thing without a process group."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def device() -> torch.device:
    """The device this rank trains on."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def total(values: Tensor) -> Tensor:
    """Sum of `values` over all ranks, in place."""
    if world() > 1:
        dist.all_reduce(values)
    return values


def barrier() -> None:
    if world() > 1:
        dist.all_reduce(torch.zeros(1, device=device()))


def gather(value: Any) -> list[Any]:
    """Every rank's value, in rank order, on every rank."""
    if world() == 1:
        return [value]
    found: list[Any] = [None] * world()
    dist.all_gather_object(found, value)
    return found


def gather_rows(rows: Tensor) -> Tensor:
    """Detached rows [n, ...] of all ranks in rank order; ranks may hold different n."""
    rows = rows.detach().contiguous()
    if world() == 1:
        return rows
    counts = torch.zeros(world(), dtype=torch.long, device=rows.device)
    counts[rank()] = len(rows)
    total(counts)
    parts = [rows.new_zeros(int(counts.max()), *rows.shape[1:]) for _ in range(world())]
    mine = parts[rank()].clone()
    mine[: len(rows)] = rows
    dist.all_gather(parts, mine)
    return torch.cat([part[:n] for part, n in zip(parts, counts.tolist(), strict=True)])
