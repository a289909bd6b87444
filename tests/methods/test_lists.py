"""RankDPO, BRAIn and RRHF: identities of the list losses."""

from __future__ import annotations

from dataclasses import replace
from math import log

import pytest
import torch
from table import Row, World, gradient, loss

from raypo.errors import MethodError
from raypo.methods import METHODS, Loss, Ranked, Scores

LIST_METHODS = ["rank_dpo", "brain", "rrhf"]


def ranked(logps: list[float], score: list[float], group: list[int] | None = None) -> Ranked:
    tensor = torch.tensor(logps, dtype=torch.float64)[:, None]
    return Ranked.of(tensor, None, torch.tensor(group or [0] * len(logps)), torch.tensor(score, dtype=torch.float64))


def of(method: str, u: list[float], score: list[float], **hyperparameters: float) -> Loss:
    zero = ranked([0.0] * len(u), score)
    reference = (zero,) if "reference" in METHODS[method].needs else ()
    return METHODS[method].loss(ranked(u, score), *reference, **hyperparameters)


def softplus(x: float) -> float:
    return torch.nn.functional.softplus(torch.tensor(x, dtype=torch.float64)).item()


def test_rank_dpo_sums_its_weighted_pairs() -> None:
    u, v = [1.0, -0.5, 2.0], [0.5, 1.0, 0.0]
    discount = {0: 1 / log(3), 1: 1 / log(2), 2: 1 / log(4)}  # ranks 2, 1, 3
    expected = sum(
        abs(2 ** v[i] - 2 ** v[j]) * abs(discount[i] - discount[j]) * softplus(-0.3 * (u[i] - u[j]))
        for i, j in ((1, 0), (1, 2), (0, 2))
    )
    assert of("rank_dpo", u, v, beta=0.3).mean().item() == pytest.approx(expected, rel=1e-13)


def test_rank_dpo_of_two_answers_is_delta_times_dpo() -> None:
    world = World.random(71).rows(torch.tensor([0, 3]))
    two = replace(world, group=torch.zeros(2, dtype=torch.long))
    delta = (2**1.0 - 2**0.4) * (1 / log(2) - 1 / log(3))
    value, slope = gradient(Row("rank_dpo"), two)
    dpo, dpo_slope = gradient(Row("dpo"), two)
    torch.testing.assert_close(value.per_example, delta * dpo.per_example)
    torch.testing.assert_close(slope, delta * dpo_slope)


def test_rank_dpo_ignores_a_common_shift_and_ties() -> None:
    a = of("rank_dpo", [1.0, -0.5, 2.0], [0.5, 1.0, 0.0]).mean()
    torch.testing.assert_close(of("rank_dpo", [8.0, 6.5, 9.0], [0.5, 1.0, 0.0]).mean(), a)
    assert of("rank_dpo", [1.0, 5.0], [0.5, 0.5]).mean().item() == 0
    tied = of("rank_dpo", [1.0, 3.0, 0.0], [1.0, 1.0, 0.0]).mean()
    torch.testing.assert_close(of("rank_dpo", [3.0, 1.0, 0.0], [1.0, 1.0, 0.0]).mean(), tied)


def test_at_the_reference_rank_dpo_is_log_two_times_its_weights() -> None:
    weights = abs(2**1 - 2**0.5) * (1 / log(2) - 1 / log(3)) + (2**1 - 1) * (1 / log(2) - 1 / log(4))
    weights += (2**0.5 - 1) * (1 / log(3) - 1 / log(4))
    assert of("rank_dpo", [0.0] * 3, [1.0, 0.5, 0.0]).mean().item() == pytest.approx(log(2) * weights)


def test_brain_is_the_cross_entropy_of_two_softmaxes() -> None:
    u, r = torch.tensor([1.0, -0.5, 2.0]).double(), torch.tensor([0.5, 1.0, 0.0]).double()
    expected = -(torch.softmax(r / 0.4, 0) * torch.log_softmax(0.3 * u, 0)).sum()
    value = of("brain", u.tolist(), r.tolist(), beta=0.3, gamma=0.4).mean()
    torch.testing.assert_close(value, expected)


def test_brain_of_two_answers_with_a_clear_winner_is_dpo() -> None:
    world = World.random(72).rows(torch.tensor([0, 3]))
    two = replace(world, group=torch.zeros(2, dtype=torch.long))
    value, slope = gradient(Row("brain", {"gamma": 1e-3}), two)
    dpo, dpo_slope = gradient(Row("dpo", {"beta": 1.0}), two)
    torch.testing.assert_close(value.per_example, dpo.per_example)
    torch.testing.assert_close(slope, dpo_slope)


def test_brain_with_equal_rewards_at_the_reference_has_no_gradient() -> None:
    world = replace(World.random(73).at_reference(), score=torch.ones(6, dtype=torch.float64))
    value, slope = gradient(Row("brain"), world)
    assert value.mean().item() == pytest.approx(log(3))
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-16)


def test_brain_ignores_a_shift_of_the_rewards() -> None:
    a, b = ([0.5, 1.0, 0.0], [100.5, 101.0, 100.0])
    torch.testing.assert_close(of("brain", [1.0, 2.0, 3.0], a).mean(), of("brain", [1.0, 2.0, 3.0], b).mean())


def test_rrhf_is_the_pair_form_for_two_answers() -> None:
    chosen, rejected = Scores.of(-torch.tensor([[1.0, 3.0]])), Scores.of(-torch.tensor([[1.0, 0.5]]))
    both = Ranked.of(torch.cat([chosen.logps, rejected.logps]), None, torch.tensor([0, 0]), torch.tensor([1.0, 0.0]))
    value = METHODS["rrhf"].loss(both, lambda_=0.5, sft_reduction="sum").mean()
    expected = torch.relu(rejected.mean() - chosen.mean()) - 0.5 * chosen.sum()
    torch.testing.assert_close(value, expected.squeeze())


def test_rrhf_sums_violations_over_all_ordered_pairs() -> None:
    rank = of("rrhf", [-3.0, -1.0, -2.0], [2.0, 1.0, 0.0], lambda_=0.0, rank_weight=2.0)
    assert rank.mean().item() == pytest.approx(2.0 * ((3 - 1) + (3 - 2) + 0))


def test_rrhf_in_the_right_order_is_pure_likelihood_of_the_best() -> None:
    policy = ranked([-1.0, -2.0, -3.0], [0.9, 0.5, 0.1])
    policy.scores.logps.requires_grad_()
    METHODS["rrhf"].loss(policy).mean().backward()
    assert policy.scores.logps.grad is not None
    assert policy.scores.logps.grad.squeeze().tolist() == [-1.0, 0.0, 0.0]


def test_rrhf_pulls_a_violating_pair_by_one_over_their_lengths() -> None:
    logps = -torch.tensor([[2.0, 2.0], [0.5, 0.0]], dtype=torch.float64)
    mask = torch.tensor([[1, 1], [1, 0]])
    policy = Ranked.of(logps.requires_grad_(), mask, torch.tensor([0, 0]), torch.tensor([1.0, 0.0]))
    METHODS["rrhf"].loss(policy, lambda_=0.0).mean().backward()
    assert logps.grad is not None
    assert logps.grad.tolist() == [[-0.5, -0.5], [1.0, 0.0]]


def test_rrhf_length_penalty_is_the_exponent_of_the_length() -> None:
    logps = -torch.tensor([[2.0, 2.0, 2.0, 2.0], [1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]])
    policy = Ranked.of(logps, mask, torch.tensor([0, 0]), torch.tensor([1.0, 0.0]))
    violations = [METHODS["rrhf"].loss(policy, lambda_=0.0, length_penalty=x).mean().item() for x in (0.0, 0.5, 1.0)]
    assert violations == pytest.approx([8 - 1, 4 - 1, 2 - 1])


def test_rrhf_sees_the_order_of_scores_alone() -> None:
    a = of("rrhf", [-3.0, -1.0, -2.0], [2.0, 1.0, 0.0]).mean()
    torch.testing.assert_close(of("rrhf", [-3.0, -1.0, -2.0], [900.0, 0.2, -5.0]).mean(), a)


@pytest.mark.parametrize("method", LIST_METHODS)
def test_lists_of_unequal_length_are_the_mean_of_their_prompts(method: str) -> None:
    hp = {"lambda_": 0.0} if method == "rrhf" else {}
    u, v = [1.0, -0.5, 2.0, 0.3, 0.1], [0.5, 1.0, 0.0, 0.2, 0.9]
    both = METHODS[method].loss(
        ranked(u, v, [0, 0, 0, 1, 1]),
        *((ranked([0.0] * 5, v, [0, 0, 0, 1, 1]),) if method != "rrhf" else ()),
        **hp,
    )
    alone = [of(method, u[i], v[i], **hp).mean() for i in (slice(3), slice(3, 5))]
    torch.testing.assert_close(both.per_example, torch.stack(alone))


def test_list_metrics_take_the_best_and_the_worst_and_all_pairs() -> None:
    metrics = of("rank_dpo", [1.0, -0.5, 2.0], [0.5, 1.0, 0.0], beta=0.5).metrics
    assert metrics["rewards/chosen"][0].item() == -0.25
    assert metrics["rewards/rejected"][0].item() == 1.0
    total, count = metrics["rewards/accuracies"]
    assert (total.item(), count.item()) == (0, 3)


@pytest.mark.parametrize(("method", "least"), [("rank_dpo", 3), ("brain", 3), ("rrhf", 2)])
def test_list_methods_say_how_many_answers_they_want(method: str, least: int) -> None:
    assert METHODS[method].candidates == least
    assert METHODS[method].carries == ("score",)


@pytest.mark.parametrize("method", LIST_METHODS)
def test_missing_scores_are_refused(method: str) -> None:
    bare = Ranked(Scores.of(torch.zeros(2, 1)), torch.tensor([0, 0]))
    more: tuple[Ranked, ...] = (bare,) if method != "rrhf" else ()
    with pytest.raises(MethodError, match=f"{method}.policy: needs scores, got none"):
        METHODS[method].loss(bare, *more)


def test_worlds_of_two_prompts_keep_them_apart() -> None:
    world = World.random(74)
    first = world.rows(torch.tensor([1, 3, 5]))
    torch.testing.assert_close(loss(Row("brain"), world).per_example[0], loss(Row("brain"), first).mean())
