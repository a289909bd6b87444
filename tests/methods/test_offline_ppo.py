"""Offline PPO: clip, advantages, KL modes and the critic."""

from __future__ import annotations

from dataclasses import replace
from math import exp, log

import pytest
import torch
from table import Row, World, gradient, inputs, labelled, loss

from raypo.errors import MethodError
from raypo.methods import METHODS, Batch
from raypo.methods.offline_ppo import discounted_sum

NO_KL = {"beta": 0.0}


def slope_at(rho: float, desirable: bool, **hyperparameters: object) -> float:
    """d loss / d log-prob of a one-token answer whose ratio to the reference is rho."""
    policy = labelled([log(rho)], [desirable])
    policy.scores.logps.requires_grad_()
    value = METHODS["offline_ppo"].loss(policy, labelled([0.0], [desirable]), **{**NO_KL, **hyperparameters})
    return torch.autograd.grad(value.mean(), policy.scores.logps)[0].item()


@pytest.mark.parametrize(("clip", "low", "high"), [("symmetric", 0.8, 1.2), ("reciprocal", 0.2, 5.0)])
def test_only_the_two_regions_that_went_far_enough_lose_their_gradient(clip: str, low: float, high: float) -> None:
    up, down = high * 1.01, low * 0.99
    assert slope_at(up, True, epsilon=0.2, clip=clip) == 0
    assert slope_at(down, False, epsilon=0.2, clip=clip) == 0
    assert slope_at(down, True, epsilon=0.2, clip=clip) == pytest.approx(-down)
    assert slope_at(up, False, epsilon=0.2, clip=clip) == pytest.approx(up)
    assert slope_at(1.01, True, epsilon=0.2, clip=clip) == pytest.approx(-1.01)


def test_at_the_reference_the_gradient_is_minus_advantage_over_tokens() -> None:
    world = World.random(51).at_reference()
    _, slope = gradient(Row("offline_ppo", NO_KL), world)
    label = torch.where(world.score > 0.5, 1.0, -1.0).double()
    torch.testing.assert_close(slope, -label[:, None] * world.mask / world.mask.sum())


@pytest.mark.parametrize(
    ("mode", "value", "slope"),
    [("k3_ref", 2 - 1 - log(2), 2 - 1), ("head", log(2), 1), ("legacy", -log(2), -1)],
)
def test_kl_modes_have_their_values_and_slopes(mode: str, value: float, slope: float) -> None:
    plain = {"epsilon": 0.5, "kl_mode": mode}
    metrics = METHODS["offline_ppo"].loss(labelled([log(2)], [True]), labelled([0.0], [True]), **plain).metrics
    assert metrics["ppo/kl"][0].item() == pytest.approx(value)
    assert slope_at(2.0, True, beta=0.3, **plain) == pytest.approx(0.3 * slope)  # the surrogate is clipped here


def test_k3_is_least_at_the_reference_and_keeps_its_pull_far_below() -> None:
    grid = [slope_at(rho, True, beta=1.0) - slope_at(rho, True) for rho in (0.5, 1.0, 1.4)]
    assert grid[0] < 0 < grid[2]
    assert grid[1] == 0
    assert slope_at(exp(-300), True, beta=1.0) == pytest.approx(-1.0)


def test_exact_kl_is_the_token_kl_that_was_given_with_its_gradient() -> None:
    world = World.random(52)
    kl = world.token_kl.clone().requires_grad_()
    row = Row("offline_ppo", {"kl_mode": "exact", "beta": 0.3})
    without = loss(Row("offline_ppo", NO_KL), world).mean()
    value = loss(row, world, token_kl=kl)
    torch.testing.assert_close(value.mean() - without, 0.3 * kl[world.mask].mean())
    value.mean().backward()
    torch.testing.assert_close(kl.grad, 0.3 * world.mask.double() / world.mask.sum())


def test_needs_follow_the_hyperparameters() -> None:
    method = METHODS["offline_ppo"]
    assert method.needs == ("reference", "batch", "value", "token_kl")
    assert method.needs_for() == ("reference",)
    assert method.needs_for(whiten=True) == ("reference", "batch")
    assert method.needs_for(kl_mode="exact") == ("reference", "token_kl")
    assert method.needs_for(advantage="gae") == ("reference", "value")
    with pytest.raises(MethodError, match="missing value"):
        method.loss(labelled([0.0], [True]), labelled([0.0], [True]), advantage="gae")


def test_discounted_sum_is_the_recursion() -> None:
    x = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected, running = torch.zeros_like(x), torch.zeros(2, dtype=torch.float64)
    for t in reversed(range(6)):
        running = x[:, t] + 0.7 * running
        expected[:, t] = running
    torch.testing.assert_close(discounted_sum(x, 0.7), expected)
    torch.testing.assert_close(discounted_sum(x, 0.0), x)


def test_without_critic_values_and_discount_gae_is_the_label() -> None:
    world = World.random(53)
    hp = {"advantage": "gae", "gamma": 1.0, "lambda_": 1.0, "critic_weight": 0.0}
    gae = loss(Row("offline_ppo", hp), world, value=torch.zeros_like(world.value))
    torch.testing.assert_close(gae.mean(), loss(Row("offline_ppo"), world).mean())


@pytest.mark.parametrize(("returns", "last", "first"), [("inclusive", 1.0, 0.81), ("exclusive", 0.0, 0.81)])
def test_the_critic_regresses_on_returns_with_or_without_their_own_reward(
    returns: str, last: float, first: float
) -> None:
    world = World.random(54)
    one = replace(world.rows(torch.tensor([0])), mask=torch.tensor([[1, 1, 0, 1, 0]]).bool())
    value = one.value.clone().requires_grad_()
    hp = {"advantage": "gae", "gamma": 0.9, "critic_weight": 0.5, "returns": returns, "beta": 0.0}
    loss(Row("offline_ppo", hp), one, value=value).mean().backward()
    target = torch.tensor([[first, 0.9, 0, last, 0]], dtype=torch.float64)
    torch.testing.assert_close(value.grad, 0.5 * (one.value - target) * one.mask / 3)


def test_gae_advantages_are_those_of_the_recursion_over_scored_tokens() -> None:
    world = World.random(55).at_reference()
    one = replace(world.rows(torch.tensor([0])), mask=torch.tensor([[1, 1, 0, 1, 0]]).bool())
    v = one.value[one.mask]
    delta = torch.stack([0.9 * v[1] - v[0], 0.9 * v[2] - v[1], 1 - v[2]])
    advantage = [delta[0] + 0.72 * (delta[1] + 0.72 * delta[2]), delta[1] + 0.72 * delta[2], delta[2]]
    hp = {"advantage": "gae", "gamma": 0.9, "lambda_": 0.8, "critic_weight": 0.0, **NO_KL}
    _, slope = gradient(Row("offline_ppo", hp), one)
    torch.testing.assert_close(slope[one.mask], -torch.stack(advantage) / 3)


def test_whitened_advantages_have_mean_zero_and_variance_one() -> None:
    world = World.random(56).at_reference()
    value, slope = gradient(Row("offline_ppo", {"whiten": True, **NO_KL}), world)
    advantages = -slope[world.mask] * world.mask.sum()
    assert value.mean().item() == pytest.approx(0.0, abs=1e-12)
    assert advantages.mean().item() == pytest.approx(0.0, abs=1e-12)
    assert advantages.var(correction=0).item() == pytest.approx(1.0, abs=1e-7)


def test_whitening_one_class_alone_gives_zero_not_nan() -> None:
    world = World.random(57).rows(torch.tensor([0, 1]))
    _, slope = gradient(Row("offline_ppo", {"whiten": True, **NO_KL}), world)
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-3)


def test_a_whole_batch_in_two_gathered_halves_whitens_alike() -> None:
    world = World.random(58)
    row = Row("offline_ppo", {"whiten": True})
    whole = loss(row, world).per_example
    sums: dict[int, torch.Tensor] = {}
    halves = [world.rows(torch.arange(3)), world.rows(torch.arange(3, 6))]
    for rank, half in enumerate(halves):
        loss(row, half, batch=Batch(gather=lambda x, rank=rank: sums.setdefault(rank, x.detach())))
    both = Batch(gather=lambda _: torch.cat([sums[0], sums[1]]))
    parts = torch.cat([loss(row, half, batch=both).terms[0].values for half in halves])
    torch.testing.assert_close(parts, loss(row, world).terms[0].values)
    assert len(whole) == len(parts)
    assert set(inputs(row, world)) == {"reference", "batch"}
