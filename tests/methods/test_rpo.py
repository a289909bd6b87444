"""RPO's contrast matrix, paired and unpaired."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from table import Row, World, gradient, loss, token_logps
from torch import Tensor

from raypo.methods import Batch
from raypo.methods.rpo import prompt_weights


def log_ratios(world: World) -> Tensor:
    frozen = token_logps(world.reference_logits, world.labels)
    return ((world.policy_logps() - frozen) * world.mask).sum(-1)


def test_the_loss_is_the_mean_of_the_weighted_contrast_matrix() -> None:
    world = World.random(61)
    u, e = log_ratios(world), world.embeddings[:3]
    w = torch.softmax(-(1 - e @ e.T) / 0.3, dim=1)
    z = 0.5 * w * (u[:3, None] - u[None, 3:])
    value = loss(Row("rpo", {"beta": 0.5, "tau": 0.3}), world)
    torch.testing.assert_close(value.per_example, torch.log1p(torch.exp(-z)).mean(1))


def test_one_pair_is_dpo() -> None:
    world = World.random(61).rows(torch.tensor([0, 3]))
    for weighting in ("distance", "diagonal"):
        value, slope = gradient(Row("rpo", {"weighting": weighting}), world)
        dpo, dpo_slope = gradient(Row("dpo"), world)
        torch.testing.assert_close(value.per_example, dpo.per_example)
        torch.testing.assert_close(slope, dpo_slope)


def test_a_small_temperature_keeps_the_own_pair_and_flattens_the_rest() -> None:
    world = World.random(62)
    dpo = loss(Row("dpo"), world).per_example
    value = loss(Row("rpo", {"tau": 1e-4}), world).per_example
    torch.testing.assert_close(value, (dpo + 2 * torch.log(torch.tensor(2.0, dtype=torch.float64))) / 3)


def test_a_large_temperature_weighs_all_alike_and_rows_sum_to_one() -> None:
    e = World.random(62).embeddings
    torch.testing.assert_close(prompt_weights(e, 1e9), torch.full((6, 6), 1 / 6, dtype=torch.float64))
    torch.testing.assert_close(prompt_weights(e, 0.2).sum(1), torch.ones(6, dtype=torch.float64))


def test_the_diagonal_form_mixes_dpo_with_the_other_contrasts() -> None:
    world = World.random(63)
    u = log_ratios(world)
    all_pairs = torch.log1p(torch.exp(-0.1 * (u[:3, None] - u[None, 3:])))
    off = (all_pairs.sum(1) - all_pairs.diagonal()) / 2
    value = loss(Row("rpo", {"weighting": "diagonal", "diagonal_weight": 0.7}), world).per_example
    torch.testing.assert_close(value, 0.7 * all_pairs.diagonal() + 0.3 * off)


def test_unpaired_contrasts_each_desirable_with_each_undesirable() -> None:
    world = World.random(64).rows(torch.tensor([0, 1, 3, 4, 5]))
    u, e = log_ratios(world), world.embeddings
    w = torch.softmax(-(1 - e[:2] @ e[2:].T) / 0.5, dim=1)
    expected = torch.log1p(torch.exp(-0.2 * w * (u[:2, None] - u[None, 2:]))).mean()
    torch.testing.assert_close(loss(Row("rpo_unpaired", {"beta": 0.2}), world).mean(), expected)


def test_unpaired_gradient_with_classes_of_unequal_size() -> None:
    world = World.random(64).rows(torch.tensor([0, 3, 4, 5]))
    logps = world.policy_logps().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(Row("rpo_unpaired"), world, x).mean(), logps, eps=1e-6, atol=1e-7)


def test_one_of_each_label_is_dpo() -> None:
    world = World.random(64).rows(torch.tensor([0, 3]))
    value, slope = gradient(Row("rpo_unpaired"), world)
    dpo, dpo_slope = gradient(Row("dpo"), world)
    torch.testing.assert_close(value.mean(), dpo.mean())
    torch.testing.assert_close(slope, dpo_slope)


@pytest.mark.parametrize("rows", [[0, 1], [4, 5]])
def test_one_class_alone_has_zero_loss_and_gradient(rows: list[int]) -> None:
    value, slope = gradient(Row("rpo_unpaired"), World.random(65).rows(torch.tensor(rows)))
    assert value.mean().item() == 0
    assert (slope == 0).all()


@pytest.mark.parametrize("method", ["rpo", "rpo_unpaired"])
def test_ranks_that_gather_see_the_loss_and_gradient_of_the_whole_batch(method: str) -> None:
    """Two ranks, played one after the other: their mean loss and their gradients are those of one rank with all."""
    row, world = Row(method, {"tau": 0.3}), World.random(66)
    parts = [[0, 1, 3, 4], [2, 5]] if method == "rpo" else [[0, 3, 4], [1, 2, 5]]
    order = torch.tensor([0, 1, 2, 3, 4, 5]) if method == "rpo" else torch.tensor(parts[0] + parts[1])
    whole, slope = gradient(row, world.rows(order))
    # What the ranks' calls of `gather` must answer, in the order of the calls of the method on the whole batch.
    answers: list[Tensor] = []
    loss(row, world.rows(order), batch=Batch(gather=lambda x: answers.append(x.detach()) or x.detach()))  # type: ignore[func-returns-value]
    total, slopes, offset = 0.0, torch.zeros_like(slope), 0
    for part in parts:
        calls = iter(answers)
        batch = Batch(gather=lambda _, calls=calls: next(calls), offset=offset)
        local, local_slope = gradient(row, world.rows(torch.tensor(part)), batch=batch)
        n = len(local.per_example)
        total += local.mean().item() * n / len(whole.per_example)
        slopes[[order.tolist().index(i) for i in part]] = local_slope * n / len(whole.per_example)
        offset += n
    assert total == pytest.approx(whole.mean().item(), rel=1e-12)
    torch.testing.assert_close(slopes, slope)


def test_equal_models_give_log_two_for_any_embeddings() -> None:
    world = World.random(67).at_reference()
    far = replace(world, embeddings=-world.embeddings)
    torch.testing.assert_close(loss(Row("rpo"), world).per_example, loss(Row("rpo"), far).per_example)
