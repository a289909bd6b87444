"""Identities of the pairwise methods with a reference, and how they reduce to each other."""

from __future__ import annotations

from dataclasses import replace
from math import log, log1p

import pytest
import torch
from table import Row, World, gradient, loss, pairs, swapped
from torch import Tensor

from raypo.errors import MethodError
from raypo.methods import METHODS, Loss, Pairs, Scores

H = [-30.0, -2.0, 0.0, 0.5, 3.0, 40.0]
ZERO = [0.0] * len(H)


def at(method: str, h: list[float] = H, **hyperparameters: object) -> Tensor:
    """[n] losses of pairs whose margin of log-ratios is h."""
    reference = pairs(ZERO[: len(h)], ZERO[: len(h)])
    return METHODS[method].loss(pairs(h, ZERO[: len(h)]), reference, **hyperparameters).per_example


def margins(world: World) -> Tensor:
    """[B] margins of log-ratios of a world's pairs."""
    frozen = replace(world, logits=world.reference_logits).policy_logps()
    u = ((world.policy_logps() - frozen) * world.mask).sum(-1)
    return u[:3] - u[3:]


def same(a: Loss, b: Loss) -> None:
    torch.testing.assert_close(a.per_example, b.per_example, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    "row",
    [
        Row("cdpo", {"epsilon": 0.0}),
        Row("robust_dpo", {"epsilon": 0.0}),
        Row("r_dpo", {"alpha": 0.0}),
        Row("ld_dpo", {"alpha": 1.0}),
        Row("odpo", {"alpha": 0.0}),
        Row("beta_dpo", {"a": 0.0, "drop": 0.0}),
        Row("epsilon_dpo", {"epsilon": 1e-13, "beta": 0.1}),
    ],
    ids=str,
)
def test_reduces_to_dpo(row: Row) -> None:
    world = World.random(11)
    value, slope = gradient(row, world)
    dpo, dpo_slope = gradient(Row("dpo", {"beta": 0.1}), world)
    same(value, dpo)
    torch.testing.assert_close(slope, dpo_slope, rtol=1e-11, atol=1e-13)


def test_dpo_is_log_sigma_of_summed_log_ratios() -> None:
    world = World.random(12)
    expected = torch.log1p(torch.exp(-0.3 * margins(world)))
    torch.testing.assert_close(loss(Row("dpo", {"beta": 0.3}), world).per_example, expected)


def test_dpo_gradient_is_minus_beta_sigma_on_chosen_tokens_and_plus_on_rejected() -> None:
    world = World.random(12)
    _, slope = gradient(Row("dpo", {"beta": 0.3}), world)
    weight = 0.3 * torch.sigmoid(-0.3 * margins(world)) / 3
    expected = torch.cat([-weight, weight])[:, None] * world.mask
    torch.testing.assert_close(slope, expected)


@pytest.mark.parametrize("method", ["dpo", "tr_dpo"])
def test_swapping_the_answers_changes_the_loss_by_minus_beta_h(method: str) -> None:
    policy, zero, beta = pairs(H, ZERO), pairs(ZERO, ZERO), 0.3
    more = {"moving_reference": zero, "state": METHODS[method].initial_state()} if method == "tr_dpo" else {}
    there = METHODS[method].loss(policy, reference=zero, beta=beta, **more).per_example
    back = METHODS[method].loss(swapped(policy), reference=zero, beta=beta, **more).per_example
    torch.testing.assert_close(there - back, -beta * torch.tensor(H, dtype=torch.float64))


def test_adding_a_constant_to_both_answers_changes_nothing() -> None:
    torch.testing.assert_close(
        METHODS["dpo"].loss(pairs([1.5], [0.5]), pairs([0.0], [0.0])).mean(),
        METHODS["dpo"].loss(pairs([-98.5], [-99.5]), pairs([0.0], [0.0])).mean(),
    )


def test_dpo_tends_to_exp_of_minus_the_margin() -> None:
    assert at("dpo", [40.0], beta=1.0).item() == pytest.approx(float(torch.tensor(-40.0, dtype=torch.float64).exp()))


def test_cdpo_is_the_two_smoothed_terms() -> None:
    z = 0.5 * torch.tensor(H, dtype=torch.float64)
    expected = -0.8 * torch.nn.functional.logsigmoid(z) - 0.2 * torch.nn.functional.logsigmoid(-z)
    torch.testing.assert_close(at("cdpo", beta=0.5, epsilon=0.2), expected)


def test_cdpo_is_least_at_the_log_odds_of_epsilon_with_the_entropy_as_value() -> None:
    best = log(9)
    values = at("cdpo", [best - 0.01, best, best + 0.01], beta=1.0, epsilon=0.1)
    assert values.argmin() == 1
    assert values[1].item() == pytest.approx(-0.1 * log(0.1) - 0.9 * log(0.9), abs=1e-12)


def test_cdpo_with_a_half_does_not_know_which_answer_was_chosen() -> None:
    torch.testing.assert_close(at("cdpo", beta=1.0, epsilon=0.5), at("cdpo", [-h for h in H], beta=1.0, epsilon=0.5))


def test_cdpo_counts_the_pairs_beyond_its_optimum() -> None:
    metrics = (
        METHODS["cdpo"].loss(pairs([1.0, 3.0], [0.0, 0.0]), pairs([0.0] * 2, [0.0] * 2), beta=1.0, epsilon=0.1).metrics
    )
    assert metrics["cdpo/beyond_optimum"][0].item() == 1


def test_robust_dpo_is_unbiased_under_label_flips() -> None:
    here, flipped = at("robust_dpo", beta=0.5, epsilon=0.2), at("robust_dpo", [-h for h in H], beta=0.5, epsilon=0.2)
    torch.testing.assert_close(0.8 * here + 0.2 * flipped, at("dpo", beta=0.5))


def test_robust_dpo_is_its_quotient_form() -> None:
    z = torch.tensor(H, dtype=torch.float64)
    logsigmoid = torch.nn.functional.logsigmoid
    expected = (-0.8 * logsigmoid(z) + 0.2 * logsigmoid(-z)) / 0.6
    torch.testing.assert_close(at("robust_dpo", beta=1.0, epsilon=0.2), expected)


def test_robust_and_conservative_dpo_differ_by_their_linear_terms() -> None:
    gap = at("robust_dpo", beta=0.5, epsilon=0.2) - at("cdpo", beta=0.5, epsilon=0.2)
    torch.testing.assert_close(gap, -(0.2 / 0.6 + 0.2) * 0.5 * torch.tensor(H, dtype=torch.float64))


def test_robust_dpo_keeps_its_slope_and_falls_below_zero() -> None:
    far = at("robust_dpo", [1e3, 1e3 + 1], beta=1.0, epsilon=0.25)
    assert far[0] < 0
    assert (far[1] - far[0]).item() == pytest.approx(-0.25 / 0.5)


def test_robust_dpo_refuses_a_half() -> None:
    with pytest.raises(MethodError, match=r"robust_dpo.epsilon: not allowed, got 0.5; needs a number in \[0, 0.5\)"):
        at("robust_dpo", epsilon=0.5)


def test_r_dpo_discourages_length() -> None:
    world = World.random(13)
    lengths = world.mask.sum(-1)
    dlen = (lengths[:3] - lengths[3:]).double()
    assert dlen.abs().min() > 0
    expected = torch.log1p(torch.exp(-(0.3 * margins(world) + 0.2 * dlen)))
    torch.testing.assert_close(loss(Row("r_dpo", {"beta": 0.3, "alpha": 0.2}), world).per_example, expected)
    still = loss(Row("r_dpo", {"alpha": 0.2}), world.at_reference()).per_example
    torch.testing.assert_close(still, torch.log1p(torch.exp(-0.2 * dlen)))


def test_r_dpo_with_equal_lengths_is_dpo() -> None:
    torch.testing.assert_close(at("r_dpo", beta=0.3, alpha=1.0), at("dpo", beta=0.3))


def test_ld_dpo_with_equal_lengths_is_dpo_whatever_alpha() -> None:
    world = World.random(14)
    full = replace(world, mask=torch.ones_like(world.mask))
    same(loss(Row("ld_dpo", {"alpha": 0.2}), full), loss(Row("dpo"), full))


def test_ld_dpo_without_tails_is_dpo_on_truncated_answers() -> None:
    world = World.random(14)
    lengths = world.mask.sum(-1)
    shared = torch.minimum(lengths[:3], lengths[3:]).repeat(2)
    cut = replace(world, mask=world.mask & (torch.arange(5) < shared[:, None]))
    same(loss(Row("ld_dpo", {"alpha": 0.0}), world), loss(Row("dpo"), cut))


def test_ld_dpo_counts_completion_tokens_not_columns() -> None:
    mask = torch.tensor([[1, 0, 1, 1]]), torch.tensor([[0, 0, 1, 1]])
    policy = Pairs.of(torch.zeros(1, 4), torch.zeros(1, 4), *mask)
    reference = Pairs.of(-torch.tensor([[1.0, 9.0, 10.0, 100.0]]), torch.zeros(1, 4), *mask)
    margin = METHODS["ld_dpo"].loss(policy, reference, alpha=0.5, beta=1.0).metrics["rewards/margins"][0]
    assert margin.item() == 1 + 10 + 0.5 * 100


def test_odpo_is_dpo_at_a_shifted_margin() -> None:
    policy, reference = scored([2.0, 5.0], gap=[0.5, 3.0]), scored([0.0, 0.0], gap=[0.5, 3.0])
    for scale, f in (("identity", lambda g: g), ("log", log), ("log1p", log1p)):
        value = METHODS["odpo"].loss(policy, reference, beta=0.4, alpha=0.7, scale=scale).per_example
        shifted = [h - 0.7 * f(gap) / 0.4 for h, gap in ((2.0, 0.5), (5.0, 3.0))]
        torch.testing.assert_close(value, at("dpo", shifted, beta=0.4))


def test_odpo_with_a_log_gap_of_one_is_dpo() -> None:
    policy, reference = scored([2.0], gap=[1.0]), scored([0.0], gap=[1.0])
    torch.testing.assert_close(
        METHODS["odpo"].loss(policy, reference, beta=0.4).per_example, at("dpo", [2.0], beta=0.4)
    )


def test_odpo_refuses_ties_under_log_and_missing_scores() -> None:
    tie = scored([2.0], gap=[0.0])
    with pytest.raises(
        MethodError, match=r"odpo.scale: log needs score gaps above 0, got 0; drop ties or use identity"
    ):
        METHODS["odpo"].loss(tie, tie)
    with pytest.raises(MethodError, match="needs scores of both completions"):
        METHODS["odpo"].loss(pairs([1.0], [0.0]), pairs([0.0], [0.0]))
    assert METHODS["odpo"].loss(tie, tie, scale="log1p").mean().item() == pytest.approx(log(2))


def scored(chosen: list[float], gap: list[float]) -> Pairs:
    sides = ((chosen, gap), ([0.0] * len(chosen), [0.0] * len(chosen)))
    tensors = (
        (torch.tensor(logps, dtype=torch.float64), torch.tensor(score, dtype=torch.float64)) for logps, score in sides
    )
    return Pairs(*(Scores.of(logps[:, None], score=score) for logps, score in tensors))


def test_a_shared_prefix_cancels_in_dpo_but_not_in_mean_or_odds_losses() -> None:
    world = World.random(15, tokens=5)
    prefix = torch.arange(5) < 1
    shared = replace(
        world,
        logits=torch.where(prefix[:, None], world.logits[:1], world.logits),
        reference_logits=torch.where(prefix[:, None], world.reference_logits[:1], world.reference_logits),
        labels=torch.where(prefix, world.labels[:1], world.labels),
        mask=torch.tensor([5, 2, 4, 3, 5, 2])[:, None] > torch.arange(5),
    )
    suffix = replace(shared, mask=shared.mask & ~prefix)
    same(loss(Row("dpo"), shared), loss(Row("dpo"), suffix))
    for row in (Row("simpo"), Row("orpo"), Row("ipo", {"tau": 0.1, "aggregate": "mean"})):
        assert not torch.allclose(loss(row, shared).per_example, loss(row, suffix).per_example)
