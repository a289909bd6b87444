"""What two ranks do in `test_two_ranks`: spawned by file, so that each starts clean."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist
from table import Row, World, gradient, inputs, loss, pairs

from raypo.methods import METHODS, Batch, Loss

SHARES = {1: [[0, 1, 2, 3, 4, 5]], 2: [[0, 3], [1, 2, 4, 5]]}


def gather(x: torch.Tensor) -> torch.Tensor:
    """The detached rows of all ranks, which may have different numbers of them."""
    if not dist.is_initialized():
        return x.detach()
    rows: list[torch.Tensor] = [torch.empty(0)] * dist.get_world_size()
    dist.all_gather_object(rows, x.detach())
    return torch.cat(rows)


def added(metrics: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> dict[str, tuple[float, float]]:
    """Metrics summed over ranks, as the trainer hands them to a state."""
    names = sorted(metrics)
    values = torch.stack([torch.stack(metrics[name]) for name in names])
    if dist.is_initialized():
        dist.all_reduce(values)
    return {name: (values[i, 0].item(), values[i, 1].item()) for i, name in enumerate(names)}


def accumulated(losses: list[Loss]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    return {n: (sum(v.metrics[n][0] for v in losses), sum(v.metrics[n][1] for v in losses)) for n in losses[0].metrics}  # type: ignore[misc]


def share(rank: int, ranks: int) -> torch.Tensor:
    return torch.tensor(SHARES[ranks][rank])


def kto_baseline(rank: int, ranks: int) -> dict[str, object]:
    """KTO with the mismatched log-ratios of all ranks."""
    world = World.random(91)
    mine = [slice(0, 4)] if ranks == 1 else [slice(0, 1), slice(1, 4)]
    value, slope = gradient(Row("kto"), world.rows(share(rank, ranks)), mismatched=gather(world.mismatched[mine[rank]]))
    metrics = added(value.metrics)
    return {"z": value.metrics["kto/z"][0], "slope": slope * len(slope) / 6, "kl": metrics["kl/mismatched"]}


def beta_dpo_mask(rank: int, ranks: int) -> dict[str, object]:
    """beta-DPO's kept pairs as each rank sees them, its own part of the gradient, and the state after a step."""
    row = Row("beta_dpo", {"drop": 0.4})
    h = [3.0, -1.0, 0.5, 7.0, 2.0, 2.5, -4.0, 1.0]
    mine = slice(0, 8) if ranks == 1 else (slice(0, 3), slice(3, 8))[rank]
    policy, zero = pairs(h[mine], [0.0] * len(h[mine])), pairs([0.0] * len(h[mine]), [0.0] * len(h[mine]))
    policy.chosen.logps.requires_grad_()
    state = METHODS["beta_dpo"].initial_state(**row.hyperparameters)
    seen: list[torch.Tensor] = []

    def recorded(x: torch.Tensor) -> torch.Tensor:
        seen.append(gather(x))
        return seen[-1]

    value = METHODS["beta_dpo"].loss(policy, zero, Batch(recorded, 3 * rank, seed=5), state, **row.hyperparameters)
    slope = torch.autograd.grad(value.mean(), policy.chosen.logps)[0]
    state.after_step(added(value.metrics))
    kept = gather((value.terms[0].values != 0).double())
    return {"kept": kept, "slope": slope * len(slope) / 8, "state": asdict(state), "h": seen[0]}


def epsilon_dpo_betas(rank: int, ranks: int) -> dict[str, object]:
    """Beta over ten steps, the policy drifting from step to step."""
    return {"betas": _betas(lambda i: [World.random(100 + i, vocabulary=20).rows(share(rank, ranks))])}


def accumulated_betas() -> list[float]:
    """The same on one rank, one pair at a time."""
    return _betas(lambda i: [World.random(100 + i, vocabulary=20).rows(torch.tensor([j, j + 3])) for j in range(3)])


def _betas(micro_batches: Callable[[int], list[World]]) -> list[float]:
    row = Row("epsilon_dpo", {"beta": 0.3, "epsilon": 0.05})
    state = METHODS["epsilon_dpo"].initial_state(**row.hyperparameters)
    betas = []
    for step in range(10):
        losses = [loss(row, world, state=state) for world in micro_batches(step)]
        state.after_step(added(accumulated(losses)))
        betas.append(state.beta)
    return betas


def rpo_gradient(rank: int, ranks: int) -> dict[str, object]:
    """RPO's loss and gradient, and those of its unpaired form."""
    world, mine = World.random(93), share(rank, ranks)
    offset = sum(len(SHARES[ranks][r]) for r in range(rank))
    result: dict[str, object] = {}
    for method, rows in (("rpo", 0.5), ("rpo_unpaired", 1)):
        batch = Batch(gather, int(offset * rows))
        value, slope = gradient(Row(method, {"tau": 0.3}), world.rows(mine), batch=batch)
        result[method] = (value.mean().item() * len(mine) / 6, slope * len(mine) / 6)
    return result


def whitened_ppo(rank: int, ranks: int) -> dict[str, object]:
    """Offline PPO with whitened advantages: this rank's part of the per-token slopes, in whole-batch units."""
    world, mine = World.random(94), share(rank, ranks)
    row = Row("offline_ppo", {"whiten": True})
    local = world.rows(mine)
    _, slope = gradient(row, local, batch=Batch(gather))
    assert "batch" in inputs(row, local)
    return {"slope": slope * local.mask.sum() / world.mask.sum()}


CASES = (kto_baseline, beta_dpo_mask, epsilon_dpo_betas, rpo_gradient, whitened_ppo)


def results(rank: int, ranks: int) -> dict[str, dict[str, object]]:
    return {case.__name__: case(rank, ranks) for case in CASES}


def main(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.save(results(rank, 2), Path(folder) / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
