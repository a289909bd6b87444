"""KTO, its tanh form, and its baseline."""

from __future__ import annotations

import pytest
import torch
from table import Row, World, gradient, labelled, loss

from raypo.errors import MethodError
from raypo.methods import METHODS, Loss, means

LABELS = [True, True, False]
U = [2.0, -1.0, 0.5]


def kto(u: list[float] = U, mismatched: list[float] = [0.0], method: str = "kto", **hyperparameters: float) -> Loss:  # noqa: B006
    baseline = torch.tensor(mismatched, dtype=torch.float64)
    return METHODS[method].loss(labelled(u, LABELS), labelled([0.0] * 3, LABELS), baseline, **hyperparameters)


def sigma(z: float) -> float:
    return torch.sigmoid(torch.tensor(z, dtype=torch.float64)).item()


def test_each_example_is_judged_on_its_side_of_the_baseline() -> None:
    value = kto(mismatched=[1.0, 0.0, 0.5], beta=0.3, lambda_desirable=1.5, lambda_undesirable=0.7).per_example
    expected = [1.5 * sigma(-0.3 * 1.5), 1.5 * sigma(0.3 * 1.5), 0.7 * sigma(-0.3 * (0.5 - 0.5))]
    assert value.tolist() == pytest.approx(expected, abs=1e-14)


def test_the_mean_is_over_examples_not_over_classes() -> None:
    value = kto([0.0] * 3, beta=0.1, lambda_desirable=2.0, lambda_undesirable=4.0)
    assert value.mean().item() == pytest.approx(0.5 * (2 * 2 + 4) / 3)


def test_the_baseline_is_clamped_once_after_averaging() -> None:
    assert kto(mismatched=[-3.0, 5.0]).metrics["kto/z"][0].item() == 1.0
    assert kto(mismatched=[-3.0, 1.0]).metrics["kto/z"][0].item() == 0.0


def test_shifting_answers_and_baseline_together_changes_nothing() -> None:
    a = kto(mismatched=[1.0]).per_example
    b = kto([u + 7 for u in U], mismatched=[8.0]).per_example
    torch.testing.assert_close(a, b)


def test_the_slope_is_beta_lambda_s_times_one_minus_s_and_the_loss_is_bounded() -> None:
    world = World.random(41)
    value, slope = gradient(Row("kto", {"beta": 0.3, "lambda_desirable": 2.0}), world)
    assert (value.per_example >= 0).all()
    assert (value.per_example <= 2).all()
    share = value.per_example[0] / 2
    torch.testing.assert_close(slope[0, 0], -2.0 * 0.3 * share * (1 - share) / 6)


def test_at_the_reference_the_slope_is_a_quarter_of_lambda_beta() -> None:
    _, slope = gradient(Row("kto", {"beta": 0.2}), World.random(41).at_reference())
    torch.testing.assert_close(slope[:, 0].abs() * 6, torch.full((6,), 0.2 / 4, dtype=torch.float64))


def test_a_pair_of_labels_at_zero_baseline_is_apo_zero() -> None:
    value = kto(beta=0.4).per_example
    assert (value[0] + value[2]).item() == pytest.approx(sigma(-0.4 * 2.0) + sigma(0.4 * 0.5))


def test_kto_tanh_is_twice_kto_at_twice_beta_in_value_and_gradient() -> None:
    world = World.random(42)
    weights = {"lambda_desirable": 1.3, "lambda_undesirable": 0.6}
    tanh, tanh_slope = gradient(Row("kto_tanh", {"beta": 0.2, **weights}), world)
    logistic, slope = gradient(Row("kto", {"beta": 0.4, **weights}), world)
    torch.testing.assert_close(tanh.per_example, 2 * logistic.per_example, rtol=1e-15, atol=1e-16)
    torch.testing.assert_close(tanh_slope, 2 * slope, rtol=1e-14, atol=1e-16)


def test_kto_tanh_is_one_minus_tanh_and_does_not_vanish_in_fp32() -> None:
    value = kto(method="kto_tanh", beta=0.4).per_example
    expected = 1 - torch.tanh(0.4 * torch.tensor([2.0, -1.0, -0.5], dtype=torch.float64))
    torch.testing.assert_close(value, expected)
    far = METHODS["kto_tanh"].loss(labelled([10.0], [True]), labelled([0.0], [True]), torch.zeros(1), beta=1.0)
    assert 0 < far.per_example.float().item() < 1e-8


def test_a_batch_without_any_other_prompt_is_refused() -> None:
    with pytest.raises(MethodError, match=r"kto.mismatched: needs another prompt's answer, got none"):
        kto(mismatched=[])


def test_one_class_alone_has_finite_metrics_and_margins_are_differences_of_class_means() -> None:
    both = means(kto(beta=0.5).metrics)
    assert both["rewards/margins"] == pytest.approx(0.5 * ((2.0 - 1.0) / 2 - 0.5))
    assert both["dpo/margins"] == pytest.approx((2.0 - 1.0) / 2 - 0.5)
    good = labelled([1.0], [True])
    alone = means(METHODS["kto"].loss(good, labelled([0.0], [True]), torch.zeros(2)).metrics)
    assert "rewards/rejected" not in alone
    assert "rewards/margins" not in alone


def test_accuracy_counts_answers_on_the_right_side_of_the_baseline() -> None:
    total, count = kto(mismatched=[1.0]).metrics["rewards/accuracies"]
    assert (total.item(), count.item()) == (2, 3)


def test_no_loss_depends_on_the_mismatched_gradient() -> None:
    mismatched = torch.tensor([1.0, 2.0], requires_grad=True)
    policy = labelled(U, LABELS)
    policy.scores.logps.requires_grad_()
    METHODS["kto"].loss(policy, labelled([0.0] * 3, LABELS), mismatched).mean().backward()
    assert mismatched.grad is None
    assert loss(Row("kto"), World.random(1)).mean().isfinite()
