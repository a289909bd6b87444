"""The contract of a method, tested on every row of the table."""

from __future__ import annotations

import doctest
import importlib
from dataclasses import replace

import pytest
import torch
from table import ROWS, Row, World, data, gradient, inputs, loss, token_logps

from raypo.methods import METHODS, Pairs, Scores, check_corners

every = pytest.mark.parametrize("row", ROWS, ids=str)
smooth = pytest.mark.parametrize("row", [row for row in ROWS if row.smooth], ids=str)
splittable = pytest.mark.parametrize("row", [row for row in ROWS if not row.on_batch], ids=str)
unordered = pytest.mark.parametrize("row", [row for row in ROWS if not row.hyperparameters.get("drop")], ids=str)
known_at_reference = pytest.mark.parametrize("row", [row for row in ROWS if row.at_reference is not None], ids=str)
REFERENCE_FREE_METRICS = ("rewards/chosen", "logps/chosen", "logps_avg/chosen", "lengths/chosen", "nll")
REFERENCE_METRICS = ("ref_logps/chosen", "logratio/chosen", "dpo/accuracies", "kl/token_k1")
PAIR_METRICS = ("rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/rejected", "gradient_weight")


def test_every_method_has_a_row() -> None:
    assert {row.method for row in ROWS} == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_the_value_to_check_by_hand_in_its_docstring_is_right(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"raypo.methods.{name}"))
    assert result.attempted > 0
    assert result.failed == 0
    assert METHODS[name].summary.endswith(".")
    assert METHODS[name].equation.startswith("L = ")
    assert METHODS[name].paper


@smooth
def test_gradient_agrees_with_finite_differences(row: Row) -> None:
    world = World.random(3)
    logps = world.policy_logps().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(row, world, x).mean(), logps, eps=1e-6, atol=1e-7)


@smooth
def test_gradient_agrees_with_finite_differences_on_the_logits_of_two_token_answers(row: Row) -> None:
    world = World.random(5, tokens=2, vocabulary=2)
    given = inputs(row, world)
    of_logits = lambda f: loss(row, world, token_logps(f, world.labels), **given).mean()  # noqa: E731
    assert torch.autograd.gradcheck(of_logits, world.logits.clone().requires_grad_(), eps=1e-6, atol=1e-7)


@every
def test_extreme_log_probs_give_finite_values_and_gradients_in_fp32(row: Row) -> None:
    assert check_corners(METHODS[row.method], [row.hyperparameters]) == []


@every
@pytest.mark.parametrize("magnitude", [0.0, 1e4])
def test_log_probs_of_0_and_minus_1e4_in_any_mixture_stay_finite(row: Row, magnitude: float) -> None:
    world = World.random(1)
    for policy_sign in (1, -1):
        logps = (-magnitude * (torch.arange(6) % 2 == (policy_sign > 0))[:, None].expand(6, 5)).float().requires_grad_()
        single = replace(world, **{n: t.float() for n, t in vars(world).items() if t.dtype == torch.float64})
        value = loss(row, single, logps).mean()
        value.backward()
        assert value.isfinite()
        assert logps.grad is not None
        assert logps.grad.isfinite().all()


@every
def test_one_token_answers_differentiate_as_well(row: Row) -> None:
    world = World.random(7, tokens=1)
    value, slope = gradient(row, world)
    assert value.mean().isfinite()
    assert slope.isfinite().all()
    assert slope.abs().max() > 0


@every
def test_padding_on_either_side_changes_nothing(row: Row) -> None:
    world = World.random(2)
    value, slope = gradient(row, world)
    padded, padded_slope = gradient(row, world.padded(2, 1))
    torch.testing.assert_close(padded.per_example, value.per_example, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(padded_slope[:, 2:-1], slope, rtol=1e-12, atol=1e-13)
    assert (padded_slope[:, :2] == 0).all()
    assert (padded_slope[:, -1:] == 0).all()


@unordered
def test_the_order_of_examples_does_not_matter(row: Row) -> None:
    world = World.random(2)
    order = (
        torch.tensor([1, 2, 0, 4, 5, 3]) if METHODS[row.method].data == "pairs" else torch.tensor([4, 1, 0, 5, 2, 3])
    )
    value, slope = gradient(row, world)
    permuted, permuted_slope = gradient(row, world.rows(order))
    torch.testing.assert_close(permuted.mean(), value.mean(), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(permuted_slope, slope[order], rtol=1e-12, atol=1e-13)


@splittable
def test_a_step_does_not_depend_on_how_its_batch_was_split(row: Row) -> None:
    world = World.random(4)
    kind = METHODS[row.method].data
    parts = {"ranked": ([0, 2, 4], [1, 3, 5]), "pairs": ([0, 3], [1, 2, 4, 5])}.get(kind, ([0], [1, 2, 3, 4, 5]))
    whole, slope = gradient(row, world)
    logps = world.policy_logps().requires_grad_()
    halves = [loss(row, world.rows(torch.tensor(part)), logps[part]) for part in parts]
    normalisers = [sum(t.weights.sum() for t in terms) for terms in zip(*(h.terms for h in halves), strict=True)]
    total = sum(h.total(normalisers) for h in halves)
    torch.testing.assert_close(total, whole.mean(), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(torch.autograd.grad(total, logps)[0], slope, rtol=1e-12, atol=1e-13)
    for name, (total, count) in whole.metrics.items():
        split_total, split_count = (sum(h.metrics[name][i] for h in halves) for i in (0, 1))
        torch.testing.assert_close(split_total / split_count, total / count)


@every
def test_weights_are_known_before_any_log_prob(row: Row) -> None:
    world = World.random(4)
    real, blank = loss(row, world), loss(row, world, torch.zeros_like(world.policy_logps()))
    for a, b in zip(real.terms, blank.terms, strict=True):
        assert torch.equal(a.weights, b.weights)
    torch.testing.assert_close(real.per_example.mean(), real.mean())


@every
def test_no_gradient_reaches_what_is_frozen(row: Row) -> None:
    world = World.random(6)
    frozen = {n: t.clone().requires_grad_() for n, t in vars(world).items() if t.dtype == torch.float64}
    learned = {"value", "token_kl", "prompt"}
    live = loss(row, replace(world, **frozen), world.policy_logps().requires_grad_())
    live.mean().backward()
    assert [name for name, tensor in frozen.items() if tensor.grad is not None and name not in learned] == []


@known_at_reference
def test_loss_at_the_reference_is_the_one_computed_by_hand(row: Row) -> None:
    world = World.random(8).at_reference()
    assert loss(row, world).mean().item() == pytest.approx(row.at_reference, abs=1e-12)


@every
def test_metrics_carry_the_common_names(row: Row) -> None:
    world = World.random(9)
    method = METHODS[row.method]
    metrics = loss(row, world).metrics
    wanted = list(REFERENCE_FREE_METRICS if method.data != "completions" else REFERENCE_FREE_METRICS[1:])
    wanted += REFERENCE_METRICS if "reference" in method.needs else ()
    wanted += PAIR_METRICS if method.data in ("pairs", "ranked") else ()
    assert [name for name in wanted if name not in metrics] == []
    for total, count in metrics.values():
        assert total.isfinite()
        assert not total.requires_grad
        assert total.ndim == count.ndim == 0


def test_the_suite_sees_a_wrong_gradient() -> None:
    """A loss that detaches half of itself fails the finite differences that all rows pass."""
    world = World.random(3)

    def broken(x: torch.Tensor) -> torch.Tensor:
        policy = data(Row("dpo"), world, x)
        half = Pairs(policy.chosen, Scores(policy.rejected.logps.detach(), policy.rejected.mask))
        return METHODS["dpo"].loss(half, inputs(Row("dpo"), world)["reference"]).mean()

    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        torch.autograd.gradcheck(broken, world.policy_logps().requires_grad_(), eps=1e-6, atol=1e-7)
