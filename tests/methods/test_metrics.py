"""The metrics that all methods share, by hand."""

from __future__ import annotations

import pytest
import torch
from table import Row, World, loss

from raypo.methods import METHODS, Batch, Pairs, Ranked, Scores, Unpaired, logit_metrics, means, metric
from raypo.methods._metrics import pair_metrics

MASK = torch.tensor([[1, 1], [1, 0]]), torch.tensor([[1, 0], [1, 1]])
POLICY = Pairs.of(-torch.tensor([[1.0, 3.0], [2.0, 9.0]]), -torch.tensor([[2.0, 9.0], [1.0, 2.0]]), *MASK)
REFERENCE = Pairs.of(-torch.tensor([[2.0, 4.0], [1.0, 9.0]]), -torch.tensor([[4.0, 9.0], [2.0, 2.0]]), *MASK)


def test_every_figure_of_two_pairs() -> None:
    rewards = torch.tensor([1.0, 0.5]), torch.tensor([0.0, 0.5])
    values = means(pair_metrics(POLICY, rewards, REFERENCE))
    assert values == pytest.approx(
        {
            "rewards/chosen": 0.75,
            "rewards/rejected": 0.25,
            "rewards/margins": 0.5,
            "rewards/accuracies": 0.5,  # a tie is no success
            "gradient_weight": (0.2689414213699951 + 0.5) / 2,
            "logps/chosen": -3.0,
            "logps/rejected": -2.5,
            "logps_avg/chosen": -2.0,
            "logps_avg/rejected": -1.75,
            "lengths/chosen": 1.5,
            "lengths/rejected": 1.5,
            "ref_logps/chosen": -3.5,
            "ref_logps/rejected": -4.0,
            "logratio/chosen": (2 - 1) / 2,
            "logratio/rejected": (2 + 1) / 2,
            "nll": 6 / 3,
            "dpo/margins": (0 - 2) / 2,
            "dpo/accuracies": 0.0,
            "dpo/negative_margins": 0.5,
            "kl/token_k1": (1 + 3) / 6,
        }
    )


def test_methods_without_a_reference_claim_nothing_about_one() -> None:
    names = METHODS["simpo"].loss(POLICY).metrics
    assert not [name for name in names if name.startswith(("dpo/", "logratio", "ref_", "kl/"))]


def test_a_methods_own_reward_is_length_normalised_where_its_loss_is() -> None:
    values = means(METHODS["simpo"].loss(POLICY, beta=3.0).metrics)
    assert values["rewards/chosen"] == pytest.approx(3.0 * -2.0)
    values = means(METHODS["ipo"].loss(POLICY, REFERENCE, tau=0.5, aggregate="mean").metrics)
    assert values["rewards/chosen"] == pytest.approx(0.5 * (2 / 2 - 1) / 2)


def test_demonstrations_report_like_chosen_answers() -> None:
    values = means(METHODS["sft"].loss(Scores.of(-torch.tensor([[1.0, 3.0], [2.0, 9.0]]), MASK[0])).metrics)
    assert values == pytest.approx({"logps/chosen": -3.0, "logps_avg/chosen": -2.0, "lengths/chosen": 1.5, "nll": 2.0})


def test_logits_by_side_and_entropy_are_means_over_tokens() -> None:
    chosen, rejected = POLICY.chosen, POLICY.rejected
    found = means(logit_metrics(POLICY, POLICY))
    assert found == pytest.approx({"logits/chosen": -6 / 3, "logits/rejected": -5 / 3, "entropy": -11 / 6})
    rows = Scores.of(torch.cat([chosen.logps, rejected.logps]), torch.cat([chosen.mask, rejected.mask]))
    labelled = Unpaired(rows, torch.tensor([True, True, False, False]))
    assert means(logit_metrics(labelled, labelled)) == pytest.approx(found)
    listed = Ranked.of(rows.logps, rows.mask, torch.tensor([0, 1, 0, 1]), torch.tensor([2.0, 2.0, 1.0, 1.0]))
    assert means(logit_metrics(listed, listed)) == pytest.approx(found)
    assert means(logit_metrics(chosen, chosen)) == pytest.approx({"logits/chosen": -2.0, "entropy": -2.0})


def test_what_was_never_counted_has_no_mean() -> None:
    assert means({"x": metric(torch.ones(2), torch.zeros(2, dtype=torch.bool)), "y": (3.0, 2.0)}) == {"y": 1.5}


def test_metrics_are_summed_in_double_precision() -> None:
    total, count = metric(torch.full((1000,), 0.1))
    assert total.dtype == count.dtype == torch.float64


@pytest.mark.parametrize("method", ["beta_dpo", "rpo", "rpo_unpaired", "offline_ppo"])
def test_a_rank_that_only_keeps_step_with_the_others_computes_without_its_own_rows(method: str) -> None:
    """Its one example is not among the gathered rows, which all belong to other ranks."""
    row = Row(method, {"whiten": True} if method == "offline_ppo" else {})
    everyone, answers = World.random(95), []

    def recorded(x: torch.Tensor) -> torch.Tensor:
        answers.append(x.detach())
        return answers[-1]

    loss(row, everyone, batch=Batch(recorded))
    calls = iter(answers)
    alone = everyone.rows(torch.tensor([0, 3] if METHODS[method].data == "pairs" else [0]))
    logps = alone.policy_logps().requires_grad_()
    bystander = Batch(lambda _: next(calls), offset=len(answers[0]))
    value = loss(row, alone, logps, batch=bystander)
    (value.total([torch.tensor(1.0)] * len(value.terms)) * 0.0).backward()
    assert logps.grad is not None
    assert (logps.grad == 0).all()
    assert next(calls, None) is None


def test_a_loss_is_a_sum_of_weighted_means() -> None:
    world = World.random(96)
    value = loss(Row("cpo", {"lambda_": 2.0}), world)
    first, second = value.terms
    expected = (first.values * first.weights).sum() / first.weights.sum()
    expected = expected + (second.values * second.weights).sum() / second.weights.sum()
    torch.testing.assert_close(value.mean(), expected)
