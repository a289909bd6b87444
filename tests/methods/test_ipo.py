"""IPO in both aggregates: target, slope, overshoot."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from table import Row, World, loss, pairs
from torch import Tensor

from raypo.methods import METHODS, Pairs

H = [-30.0, -2.0, 0.0, 0.5, 3.0, 40.0]


def at(h: list[float], aggregate: str = "sum", tau: float = 0.1) -> Tensor:
    """[n] losses of one-token pairs whose margin of log-ratios is h."""
    zero = [0.0] * len(h)
    return METHODS["ipo"].loss(pairs(h, zero), pairs(zero, zero), tau=tau, aggregate=aggregate).per_example


@pytest.mark.parametrize("aggregate", ["sum", "mean"])
def test_ipo_has_its_optimum_at_the_target_and_punishes_overshoot_alike(aggregate: str) -> None:
    values = at([5 - 0.7, 5.0, 5 + 0.7], aggregate)
    torch.testing.assert_close(values, torch.tensor([0.49, 0.0, 0.49], dtype=torch.float64))


def test_ipo_slope_is_twice_the_distance_to_the_target() -> None:
    policy = pairs([1.0], [0.0])
    logps = policy.chosen.logps.requires_grad_()
    METHODS["ipo"].loss(policy, pairs([0.0], [0.0]), tau=0.1, aggregate="sum").mean().backward()
    assert logps.grad is not None
    assert logps.grad.item() == pytest.approx(2 * (1 - 5))


def test_ipo_mean_divides_each_side_by_its_own_length() -> None:
    world = World.random(16)
    frozen = replace(world, logits=world.reference_logits).policy_logps()
    average = ((world.policy_logps() - frozen) * world.mask).sum(-1) / world.mask.sum(-1)
    value = loss(Row("ipo", {"tau": 0.2, "aggregate": "mean"}), world)
    torch.testing.assert_close(value.per_example, (average[:3] - average[3:] - 2.5) ** 2)


def test_ipo_mean_equals_sum_at_another_tau_for_equal_lengths() -> None:
    n, tau = 4, 0.2
    side = torch.arange(8, dtype=torch.float64).reshape(2, n)
    policy, reference = Pairs.of(-side, -2 * side), Pairs.of(-side / 3, -side / 2)
    mean = METHODS["ipo"].loss(policy, reference, tau=tau, aggregate="mean")
    total = METHODS["ipo"].loss(policy, reference, tau=tau / n, aggregate="sum")
    torch.testing.assert_close(mean.per_example, total.per_example / n**2)


def test_ipo_losses_of_swapped_answers_differ_by_two_h_over_tau() -> None:
    gap = at(H) - at([-h for h in H])
    torch.testing.assert_close(gap, -2 / 0.1 * torch.tensor(H, dtype=torch.float64))


def test_ipo_under_noisy_labels_is_least_at_its_share_of_the_target() -> None:
    p, tau = 0.8, 0.1
    best = (2 * p - 1) / (2 * tau)
    grid = [best - 0.1, best, best + 0.1]
    noisy = p * at(grid) + (1 - p) * at([-h for h in grid])
    assert noisy.argmin() == 1
