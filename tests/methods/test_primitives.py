"""The shared mathematics against exact values, where naive forms break."""

from __future__ import annotations

from decimal import Decimal, localcontext

import pytest
import torch

from raypo.methods import Scores
from raypo.methods._primitives import LARGEST_LOG, by_group, log1mexp, log_odds, neg_logsigmoid, nll


@pytest.mark.parametrize("a", [-1e-6, -1e-3, -0.5, -0.6931471805599453, -0.7, -5.0, -15.0, -40.0, -700.0])
def test_log1mexp_agrees_with_fifty_digits(a: float) -> None:
    with localcontext() as context:
        context.prec = 340
        exact = float((1 - Decimal(a).exp()).ln())
    assert log1mexp(torch.tensor(a, dtype=torch.float64)).item() == pytest.approx(exact, rel=1e-14)


@pytest.mark.parametrize("a", [0.0, -1e-10, -1e-8, -1e-7, -1e-3, -88.0, -200.0, -1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_log1mexp_has_a_finite_value_and_gradient_in_low_precision(a: float, dtype: torch.dtype) -> None:
    x = torch.tensor(a, dtype=dtype, requires_grad=True)
    value = log1mexp(x)
    value.backward()
    assert value.isfinite()
    assert x.grad is not None
    assert x.grad.isfinite()


def test_log1mexp_slope_is_minus_odds() -> None:
    x = torch.tensor([-0.1, -0.69, -0.7, -3.0], dtype=torch.float64, requires_grad=True)
    log1mexp(x).sum().backward()
    p = x.detach().exp()
    torch.testing.assert_close(x.grad, -p / (1 - p))


def test_log_odds_slope_is_one_over_one_minus_p() -> None:
    x = torch.tensor([-0.1, -0.7, -3.0], dtype=torch.float64, requires_grad=True)
    log_odds(x).sum().backward()
    torch.testing.assert_close(x.grad, 1 / (1 - x.detach().exp()))


def test_log_odds_next_to_certainty_stops_at_the_clamp() -> None:
    assert log_odds(torch.tensor(0.0)).item() == pytest.approx(-float(torch.tensor(-LARGEST_LOG).log()), rel=1e-4)


@pytest.mark.parametrize(
    ("z", "exact"), [(-1e4, 1e4), (-120.0, 120.0), (0.0, 0.6931471805599453), (30.0, 9.357622968839299e-14)]
)
def test_neg_logsigmoid_is_exact_in_both_tails(z: float, exact: float) -> None:
    assert neg_logsigmoid(torch.tensor(z, dtype=torch.float64)).item() == pytest.approx(exact, rel=1e-13)


def test_nll_reductions_are_what_they_say() -> None:
    scores = Scores.of(-torch.tensor([[1.0, 2.0, 3.0], [4.0, 9.0, 9.0]]), torch.tensor([[1, 1, 1], [1, 0, 0]]))
    assert nll(scores).mean().item() == pytest.approx(10 / 4)
    assert nll(scores, "sequence_mean").mean().item() == pytest.approx((2 + 4) / 2)
    assert nll(scores, "sum").mean().item() == pytest.approx((6 + 4) / 2)


def test_groups_of_unequal_size_become_a_table() -> None:
    group = torch.tensor([5, 9, 5, 1, 5])
    rows, real = by_group(group)
    assert [rows[i][real[i]].tolist() for i in range(3)] == [[3], [0, 2, 4], [1]]
