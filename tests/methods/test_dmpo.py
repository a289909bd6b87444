"""DMPO's turn weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from table import Row, World, loss, pairs

from raypo.errors import MethodError
from raypo.methods import METHODS, Scores
from raypo.methods.dmpo import turn_weights


def weights(gamma: float, turns: list[int], dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return turn_weights(Scores.of(torch.zeros(1, len(turns), dtype=dtype), unit=torch.tensor([turns])), gamma)[0]


@pytest.mark.parametrize("gamma", [0.1, 0.7, 0.99])
def test_weights_follow_the_equation(gamma: float) -> None:
    expected = [gamma**t * (1 - gamma ** (3 - t)) / (1 - gamma**3) for t in (0, 0, 1, 2, 2)]
    torch.testing.assert_close(weights(gamma, [0, 0, 1, 2, 2]), torch.tensor(expected, dtype=torch.float64))


def test_the_first_turn_weighs_one_whatever_gamma() -> None:
    assert [weights(gamma, [0, 1, 2])[0].item() for gamma in (1e-3, 0.5, 1.0)] == pytest.approx([1.0, 1.0, 1.0])


def test_gamma_one_is_the_limit_also_in_fp32() -> None:
    torch.testing.assert_close(weights(1.0, [0, 1, 2]), torch.tensor([1.0, 2 / 3, 1 / 3], dtype=torch.float64))
    torch.testing.assert_close(weights(1 - 1e-7, [0, 1, 2], torch.float32), torch.tensor([1.0, 2 / 3, 1 / 3]))


def test_small_gamma_scores_the_first_turn_alone() -> None:
    world = World.random(21)
    first = replace(world, mask=world.mask & (world.unit == 0))
    torch.testing.assert_close(
        loss(Row("dmpo", {"gamma": 1e-14}), world).per_example, loss(Row("dpo"), first).per_example
    )


def test_one_turn_on_both_sides_is_dpo() -> None:
    world = World.random(21)
    single = replace(world, unit=torch.zeros_like(world.unit))
    torch.testing.assert_close(loss(Row("dmpo"), single).per_example, loss(Row("dpo"), single).per_example)


def test_each_side_has_its_own_number_of_turns() -> None:
    two = Scores.of(torch.zeros(2, 2, dtype=torch.float64), unit=torch.tensor([[0, 1], [0, 0]]))
    expected = torch.tensor([[1, 0.5], [1, 1]], dtype=torch.float64)
    torch.testing.assert_close(turn_weights(two, 1.0), expected)


def test_data_without_turns_is_refused() -> None:
    with pytest.raises(MethodError, match=r"dmpo.policy: needs the turn of every scored token"):
        METHODS["dmpo"].loss(pairs([1.0], [0.0]), pairs([0.0], [0.0]))
