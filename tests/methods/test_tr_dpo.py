"""TR-DPO: which reference, and when it moves."""

from __future__ import annotations

from dataclasses import asdict, replace
from math import log

import pytest
import torch
from table import Row, World, gradient, loss

from raypo.methods import METHODS
from raypo.methods.tr_dpo import MovingReference


def mixes(steps: int, **hyperparameters: float) -> list[float]:
    state, seen = METHODS["tr_dpo"].initial_state(**hyperparameters), []
    for _ in range(steps):
        state.after_step({})
        seen.append(state.mix)
    return seen


def test_the_reference_moves_every_tau_steps_by_alpha() -> None:
    assert mixes(7, tau=3, alpha=0.6) == [0, 0, 0.6, 0, 0, 0.6, 0]
    assert mixes(3, tau=1, alpha=1.0) == [1, 1, 1]
    assert mixes(4, tau=2, alpha=0.0) == [0, 0, 0, 0]
    assert METHODS["tr_dpo"].initial_state().mix == 0


def test_a_period_beyond_the_run_is_dpo() -> None:
    world = World.random(81)
    still = replace(world, moving_logits=world.reference_logits)
    value, slope = gradient(Row("tr_dpo", {"tau": 10**9}), still)
    dpo, dpo_slope = gradient(Row("dpo"), world)
    torch.testing.assert_close(value.per_example, dpo.per_example)
    torch.testing.assert_close(slope, dpo_slope)
    assert set(mixes(100, tau=101, alpha=1.0)) == {0.0}


def test_a_reference_that_is_the_policy_gives_log_two_and_half_beta() -> None:
    world = World.random(82)
    value, slope = gradient(Row("tr_dpo", {"beta": 0.3}), replace(world, moving_logits=world.logits))
    assert value.mean().item() == pytest.approx(log(2))
    sign = torch.tensor([-1.0, -1, -1, 1, 1, 1], dtype=torch.float64)[:, None]
    torch.testing.assert_close(slope, sign * world.mask * 0.3 / 2 / 3)
    assert value.metrics["rewards/chosen"][0].item() == 0


def test_rewards_are_against_the_moving_reference_and_dpo_metrics_against_the_first() -> None:
    world = World.random(83)
    value = loss(Row("tr_dpo"), world)
    first = loss(Row("dpo"), world).metrics
    moving = loss(Row("dpo"), replace(world, reference_logits=world.moving_logits)).metrics
    assert value.metrics["dpo/margins"][0] == first["dpo/margins"][0]
    assert value.metrics["rewards/margins"][0] == moving["rewards/margins"][0]


def test_the_state_survives_saving_bit_for_bit() -> None:
    state = MovingReference(tau=3, alpha=0.6, steps=5)
    again = MovingReference(**asdict(state))
    again.after_step({})
    assert again.mix == 0.6
