"""beta-DPO: the beta of a batch, the pairs it keeps, and its running statistics."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch
from table import pairs
from torch import Tensor

from raypo.methods import METHODS, Batch, Loss
from raypo.methods.beta_dpo import Margins, keep

METHOD = METHODS["beta_dpo"]
H = [3.0, -1.0, 0.5, 7.0, 2.0, 2.5, -4.0, 1.0]


def of(h: list[float] = H, state: Margins | None = None, seed: int = 0, **hyperparameters: float) -> Loss:
    state = METHOD.initial_state(**hyperparameters) if state is None else state
    zero = [0.0] * len(h)
    return METHOD.loss(pairs(h, zero), pairs(zero, zero), Batch(seed=seed), state, **hyperparameters)


def mean_loss(h: Tensor, beta: float) -> float:
    return torch.nn.functional.softplus(-beta * h).mean().item()


def test_beta_follows_the_mean_margin_of_the_batch() -> None:
    h = torch.tensor(H, dtype=torch.float64)
    expected = 0.1 * (1 + 0.6 * (h.mean().item() - 0.1 * h.mean().item()))
    value = of(drop=0.0, a=0.6, beta=0.1)
    assert value.metrics["beta_used"][0].item() == pytest.approx(expected)
    assert value.mean().item() == pytest.approx(mean_loss(h, expected))


def test_beta_is_affine_in_the_margin_with_slope_a_beta() -> None:
    still = Margins(momentum=1 - 1e-12, mean=1.0, std=1.0)
    low, high = (of([m] * 4, still, drop=0.0, a=0.5, beta=0.2).metrics["beta_used"][0].item() for m in (2.0, 3.0))
    assert high - low == pytest.approx(0.5 * 0.2)


def test_beta_never_falls_below_its_floor_and_the_clamp_is_counted() -> None:
    metrics = of([-100.0] * 4, drop=0.0, a=1.0).metrics
    assert metrics["beta_used"][0].item() == 1e-3
    assert metrics["beta_dpo/clamped"][0].item() == 1


def test_constant_margins_with_converged_statistics_give_beta_itself() -> None:
    assert of([2.0] * 4, Margins(0.9, mean=2.0, std=0.0), beta=0.1).metrics["beta_used"][0].item() == pytest.approx(0.1)


def test_no_gradient_flows_through_beta_or_the_choice() -> None:
    policy = pairs(H, [0.0] * 8)
    policy.chosen.logps.requires_grad_()
    value = METHOD.loss(policy, pairs([0.0] * 8, [0.0] * 8), Batch(seed=1), METHOD.initial_state(), beta=0.1, drop=0.25)
    slope = torch.autograd.grad(value.mean(), policy.chosen.logps)[0].squeeze()
    beta = value.metrics["beta_used"][0].item()
    h = torch.tensor(H, dtype=torch.float64)
    expected = -beta * torch.sigmoid(-beta * h) / 6
    kept = slope != 0
    assert kept.sum() == 6
    torch.testing.assert_close(slope[kept], expected[kept])


def test_the_loss_is_the_mean_over_kept_pairs() -> None:
    value = of(drop=0.5, seed=3)
    kept = value.per_example != 0
    assert kept.sum() == 4
    beta = value.metrics["beta_used"][0].item()
    assert value.mean().item() == pytest.approx(mean_loss(torch.tensor(H, dtype=torch.float64)[kept], beta))
    assert value.metrics["beta_dpo/kept"][0].item() == 4


def test_unusual_margins_are_dropped_more_often() -> None:
    h = torch.tensor([0.0] * 7 + [3.0], dtype=torch.float64)
    margins = Margins(0.9, mean=0.0, std=1.0)
    kept = torch.stack([keep(h, margins, 6, seed) for seed in range(400)])
    assert (kept.sum(1) == 6).all()
    assert kept[:, 7].double().mean() < 0.1
    assert kept[:, :7].double().mean() > 0.8


def test_one_draw_follows_the_gaussian_weights() -> None:
    h = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    draws = torch.stack([keep(h, Margins(0.9, mean=0.0, std=1.0), 1, seed) for seed in range(4000)]).double().mean(0)
    weights = torch.exp(-(h**2) / 2)
    torch.testing.assert_close(draws, weights / weights.sum(), rtol=0, atol=0.03)


def test_margins_far_beyond_the_statistics_still_leave_enough_to_keep() -> None:
    h = torch.tensor([1e4, 2e4, 3e4, 0.0], dtype=torch.float64)
    assert keep(h, Margins(0.9, mean=0.0, std=1e-3), 3, 0).sum() == 3
    assert keep(torch.zeros(4, dtype=torch.float64), Margins(0.9), 3, 0).sum() == 3


def test_statistics_move_once_per_step_by_its_mean_and_standard_deviation() -> None:
    state = Margins(momentum=0.9, mean=1.0, std=2.0)
    before = asdict(state)
    first, second = of(H[:4], state, drop=0.0), of(H[4:], state, drop=0.0)
    assert asdict(state) == before
    names = ("beta_dpo/h", "beta_dpo/h_squared")
    state.after_step({n: tuple((first.metrics[n][i] + second.metrics[n][i]).item() for i in (0, 1)) for n in names})  # type: ignore[misc]
    h = torch.tensor(H, dtype=torch.float64)
    assert state.mean == pytest.approx(0.9 * 1.0 + 0.1 * h.mean().item())
    assert state.std == pytest.approx(0.9 * 2.0 + 0.1 * h.std().item())


def test_the_state_survives_saving_bit_for_bit() -> None:
    state = METHOD.initial_state(momentum=0.7)
    state.after_step({"beta_dpo/h": (1.7, 3.0), "beta_dpo/h_squared": (9.1, 3.0)})
    assert Margins(**asdict(state)) == state


def test_in_evaluation_it_is_dpo_and_its_statistics_rest() -> None:
    """All pairs are kept at beta itself, and the metrics show the statistics as training left them."""
    state = Margins(momentum=0.9, mean=1.0, std=2.0)
    zero = [0.0] * len(H)
    inputs = pairs(H, zero), pairs(zero, zero), Batch(training=False), state
    value = METHOD.loss(*inputs, beta=0.1, a=0.6, drop=0.5)
    torch.testing.assert_close(value.per_example, -torch.nn.functional.logsigmoid(0.1 * torch.tensor(H).double()))
    shown = {name.removeprefix("beta_dpo/"): total.item() for name, (total, _) in value.metrics.items()}
    assert (shown["beta_used"], shown["mean"], shown["std"], shown["kept"]) == (0.1, 1.0, 2.0, 8)


def test_a_batch_of_one_pair_works() -> None:
    assert of([2.0], drop=0.5).mean().isfinite()
