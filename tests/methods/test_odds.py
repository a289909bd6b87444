"""Identities of the methods without a reference: SFT, SimPO, CPO, SLiC, ORPO and ASFT in both forms."""

from __future__ import annotations

from dataclasses import replace
from math import log, log1p

import pytest
import torch
from table import Row, World, gradient, loss, pairs
from torch import Tensor

from raypo.errors import MethodError
from raypo.methods import METHODS, Pairs, Scores
from raypo.methods._primitives import log1mexp, log_odds

ONE_STAGE_ASFT = Row("asft", {"lambda_": 0.7})


def means(world: World) -> tuple[Tensor, Tensor]:
    """[B], [B] length-normalised log-probs of chosen and rejected answers."""
    average = (world.policy_logps() * world.mask).sum(-1) / world.mask.sum(-1)
    return average[:3], average[3:]


def test_sft_at_uniform_logits_is_the_log_of_the_vocabulary() -> None:
    world = replace(World.random(31), logits=torch.zeros(6, 5, 4, dtype=torch.float64))
    assert loss(Row("sft"), world).mean().item() == pytest.approx(log(4))


def test_sft_gradient_on_logits_is_softmax_minus_onehot_over_the_number_of_tokens() -> None:
    world = World.random(31)
    logits = world.logits.clone().requires_grad_()
    loss(Row("sft"), replace(world, logits=logits)).mean().backward()
    expected = world.logits.softmax(-1) - torch.nn.functional.one_hot(world.labels, 4)
    torch.testing.assert_close(logits.grad, expected * world.mask[..., None] / world.mask.sum())


def test_simpo_at_equal_means_is_softplus_of_gamma() -> None:
    value = METHODS["simpo"].loss(pairs([-2.0], [-2.0]), beta=2.0, gamma_beta_ratio=0.7).mean()
    assert value.item() == pytest.approx(log1p(torch.tensor(1.4, dtype=torch.float64).exp().item()))


def test_simpo_slope_on_a_chosen_token() -> None:
    world = World.random(32)
    _, slope = gradient(Row("simpo", {"beta": 2.0, "gamma_beta_ratio": 0.5}), world)
    chosen, rejected = means(world)
    expected = -2 / world.mask[:3].sum(-1) * torch.sigmoid(1 - 2 * (chosen - rejected)) / 3
    torch.testing.assert_close(slope[:3, 0], expected)


def test_simpo_without_margin_and_with_equal_lengths_is_cpo_at_beta_over_length() -> None:
    world = World.random(32)
    full = replace(world, mask=torch.ones_like(world.mask))
    simpo = loss(Row("simpo", {"beta": 2.0, "gamma_beta_ratio": 0.0}), full)
    torch.testing.assert_close(simpo.per_example, loss(Row("cpo", {"beta": 2.0 / 5, "lambda_": 0.0}), full).per_example)


def test_simpo_ignores_a_constant_added_to_every_token() -> None:
    policy = Pairs.of(torch.tensor([[-1.0, -2.0]]), torch.tensor([[-3.0]]))
    lower = Pairs.of(policy.chosen.logps - 1, policy.rejected.logps - 1)
    torch.testing.assert_close(METHODS["simpo"].loss(policy).mean(), METHODS["simpo"].loss(lower).mean())


def test_cpo_without_nll_is_dpo_under_a_uniform_reference() -> None:
    world = World.random(33)
    equal = replace(world, mask=torch.ones_like(world.mask), reference_logits=torch.zeros_like(world.logits))
    cpo, dpo = loss(Row("cpo", {"beta": 0.1, "lambda_": 0.0}), equal), loss(Row("dpo"), equal)
    torch.testing.assert_close(cpo.per_example, dpo.per_example)


def test_cpo_reductions_differ_in_their_nll_alone() -> None:
    world = World.random(33)
    preference = loss(Row("cpo", {"lambda_": 0.0}), world).mean()
    chosen = (world.policy_logps() * world.mask)[:3]
    tokens = loss(Row("cpo", {"lambda_": 1.0}), world).mean() - preference
    sums = loss(Row("cpo", {"lambda_": 1.0, "nll_reduction": "sum"}), world).mean() - preference
    torch.testing.assert_close(tokens, -chosen.sum() / world.mask[:3].sum())
    torch.testing.assert_close(sums, -chosen.sum() / 3)


def test_slic_beyond_its_margin_is_pure_likelihood() -> None:
    policy = pairs([-1.0], [-5.0])
    logps = policy.chosen.logps.requires_grad_(), policy.rejected.logps.requires_grad_()
    value = METHODS["slic"].loss(policy, delta=2.0, lambda_=0.3).mean()
    chosen, rejected = torch.autograd.grad(value, logps)
    assert (value.item(), chosen.item(), rejected.item()) == pytest.approx((0.3, -0.3, 0.0))


def test_slic_within_its_margin_pulls_both_ways() -> None:
    policy = pairs([-2.0], [-2.5])
    logps = policy.chosen.logps.requires_grad_(), policy.rejected.logps.requires_grad_()
    chosen, rejected = torch.autograd.grad(METHODS["slic"].loss(policy, delta=1.0, lambda_=0.3).mean(), logps)
    assert (chosen.item(), rejected.item()) == pytest.approx((-1.3, 1.0))


def test_slic_at_its_kink_and_without_likelihood_has_no_gradient() -> None:
    policy = pairs([-1.0], [-2.0])
    logps = policy.chosen.logps.requires_grad_()
    METHODS["slic"].loss(policy, delta=1.0, lambda_=0.0).mean().backward()
    assert logps.grad is not None
    assert logps.grad.item() == 0


def test_orpo_alignment_is_its_three_term_form() -> None:
    chosen, rejected = (torch.tensor(a, dtype=torch.float64).log() for a in ([0.9, 0.2, 0.5], [0.3, 0.6, 0.5]))
    p, q = chosen.exp(), rejected.exp()
    value = METHODS["orpo"].loss(one_token(chosen, rejected), lambda_=1.0, nll_weight=0.0).per_example
    expected = -p.log() - (1 - q).log() + (p * (1 - q) + q * (1 - p)).log()
    torch.testing.assert_close(value, expected, rtol=1e-14, atol=1e-15)


def test_asft_one_stage_is_two_logarithms() -> None:
    world = World.random(34)
    chosen, rejected = means(world)
    torch.testing.assert_close(loss(ONE_STAGE_ASFT, world).per_example, -1.7 * chosen - 0.7 * log1mexp(rejected))


def test_orpo_is_asft_plus_the_log_of_the_exclusive_or_and_never_above_it() -> None:
    world = World.random(34)
    p, q = (a.exp() for a in means(world))
    orpo = loss(Row("orpo", {"lambda_": 0.7, "nll_reduction": "sequence_mean"}), world).per_example
    asft = loss(ONE_STAGE_ASFT, world).per_example
    torch.testing.assert_close(orpo - asft, 0.7 * (p * (1 - q) + q * (1 - p)).log())
    assert (orpo <= asft).all()


@pytest.mark.parametrize("method", ["orpo", "asft"])
def test_tempered_form_at_beta_one_is_the_alignment_part_of_one_stage(method: str) -> None:
    world = World.random(35)
    tempered = loss(Row(method, {"lambda_": 1.0, "beta": 1.0, "nll_weight": 0.0}), world).per_example
    one_stage = loss(Row(method, {"lambda_": 1.0, "nll_reduction": "sequence_mean"}), world).per_example
    torch.testing.assert_close(tempered, one_stage + means(world)[0])


@pytest.mark.parametrize("method", ["orpo", "asft"])
def test_without_lambda_only_sft_remains(method: str) -> None:
    world = World.random(35)
    value = loss(Row(method, {"lambda_": 0.0, "nll_reduction": "token_mean"}), world).mean()
    chosen = Scores.of(world.policy_logps()[:3], world.mask[:3])
    torch.testing.assert_close(value, METHODS["sft"].loss(chosen).mean())


@pytest.mark.parametrize("reduction", ["token_mean", "sequence_mean"])
@pytest.mark.parametrize("span", ["answer", "prompt_and_answer"])
def test_orpo_equals_cross_entropy_over_whole_sequences(span: str, reduction: str) -> None:
    """Dense, in fp64, from logits: prompts of 3 and 2 tokens, answers of 2 and 4; value and gradient."""
    logits = torch.randn(2, 2, 6, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    ids = torch.randint(7, (2, 6), generator=torch.Generator().manual_seed(1))
    at, prompt, end = torch.arange(1, 6), torch.tensor([[3], [2]]), torch.tensor([[5], [6]])
    logps = logits[:, :, :-1].log_softmax(-1).gather(-1, ids[None, :, 1:, None].expand(2, 2, 5, 1)).squeeze(-1)
    before, answer = at < prompt, (at >= prompt) & (at < end)
    given = {"prompt": Scores.of(logps[0], before)} if span == "prompt_and_answer" else {}
    value = METHODS["orpo"].loss(
        Pairs.of(logps[0], logps[1], answer, answer), **given, lambda_=0.3, nll_span=span, nll_reduction=reduction
    )

    def whole(f: Tensor) -> Tensor:
        labels = torch.where(answer if span == "answer" else answer | before, ids[:, 1:], -100)
        losses = torch.nn.functional.cross_entropy(f[0, :, :-1].transpose(1, 2), labels, reduction="none")
        tokens = (labels >= 0).sum(-1)
        nll = losses.sum() / tokens.sum() if reduction == "token_mean" else (losses.sum(-1) / tokens).mean()
        rows = f[:, :, :-1].log_softmax(-1).gather(-1, ids[None, :, 1:, None].expand(2, 2, 5, 1)).squeeze(-1)
        p = ((rows * answer).sum(-1) / answer.sum(-1)).exp()
        odds = p / (1 - p)
        return nll - 0.3 * torch.sigmoid((odds[0] / odds[1]).log()).log().mean()

    torch.testing.assert_close(value.mean(), whole(logits), rtol=1e-12, atol=0)
    got, want = (torch.autograd.grad(x, logits)[0] for x in (value.mean(), whole(logits)))
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-14)


def test_orpo_over_prompt_and_answer_by_hand() -> None:
    """Two prompt tokens at log-prob -3, one answer token at p = 1/2: the mean of three, plus the odds' log 2."""
    half = torch.full((1, 1), 0.5, dtype=torch.float64).log()
    prompt = Scores.of(torch.tensor([[-3.0, -3.0]], dtype=torch.float64))
    value = METHODS["orpo"].loss(Pairs.of(half, half), prompt, nll_span="prompt_and_answer").mean()
    assert value.item() == pytest.approx((6 + log(2)) / 3 + 0.1 * log(2))


def test_orpo_is_refused_a_prompt_it_lacks_or_did_not_ask_for() -> None:
    half = torch.full((1, 1), 0.5).log()
    with pytest.raises(MethodError, match=r"missing prompt \(log-probs of .* as nll_span is prompt_and_answer\)"):
        METHODS["orpo"].loss(Pairs.of(half, half), nll_span="prompt_and_answer")
    with pytest.raises(MethodError, match="needs the policy alone; got 0 unnamed and \\['prompt'\\]"):
        METHODS["orpo"].loss(Pairs.of(half, half), prompt=Scores.of(half))


def test_tempered_orpo_at_equal_odds_is_log_two_and_its_slope_is_minus_beta_sigma() -> None:
    chosen, rejected = (torch.tensor([a], dtype=torch.float64).log().requires_grad_() for a in (0.4, 0.25))
    hp = {"lambda_": 1.0, "beta": 0.3, "nll_weight": 0.0}
    equal = METHODS["orpo"].loss(one_token(chosen, chosen), **hp).mean()
    assert equal.item() == pytest.approx(log(2))
    slope = torch.autograd.grad(METHODS["orpo"].loss(one_token(chosen, rejected), **hp).mean(), chosen)[0]
    d = log_odds(chosen) - log_odds(rejected)
    torch.testing.assert_close(slope, -0.3 * torch.sigmoid(-0.3 * d) / (1 - chosen.exp()))


def test_tempered_forms_tend_to_constants_for_small_beta_and_to_a_hinge_for_large() -> None:
    world = World.random(36)
    small = {"lambda_": 1.0, "beta": 1e-9, "nll_weight": 0.0}
    assert loss(Row("orpo", small), world).mean().item() == pytest.approx(log(2))
    assert loss(Row("asft", small), world).mean().item() == pytest.approx(2 * log(2))
    chosen, rejected = means(world)
    hinge = torch.relu(log_odds(rejected) - log_odds(chosen))
    large = loss(Row("orpo", small | {"beta": 1e6}), world).per_example / 1e6
    torch.testing.assert_close(large, hinge, rtol=1e-5, atol=1e-6)


def test_asft_judges_each_answer_alone() -> None:
    def of_chosen_slope(rejected: float) -> float:
        chosen = torch.tensor([-0.5], dtype=torch.float64, requires_grad=True)
        other = torch.tensor([rejected], dtype=torch.float64)
        value = METHODS["asft"].loss(one_token(chosen, other), beta=0.4).mean()
        return torch.autograd.grad(value, chosen)[0].item()

    assert of_chosen_slope(-0.1) == of_chosen_slope(-3.0)


def one_token(chosen: Tensor, rejected: Tensor) -> Pairs:
    return Pairs.of(chosen[:, None], rejected[:, None])
