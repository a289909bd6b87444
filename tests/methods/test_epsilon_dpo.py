"""epsilon-DPO: the closed form against three softmaxes, the decision, and the path of beta."""

from __future__ import annotations

from dataclasses import asdict, replace
from math import log

import pytest
import torch
from table import Row, World, inputs, loss, pairs
from torch import Tensor

from raypo.methods import METHODS, FullLogPartition, Loss, Pairs
from raypo.methods.epsilon_dpo import Beta

METHOD = METHODS["epsilon_dpo"]


def log_likelihood(f: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    return (f.log_softmax(-1).gather(-1, labels[..., None]).squeeze(-1) * mask).sum(-1)


def three_softmaxes(world: World, epsilon: float) -> tuple[Tensor, Tensor]:
    """[B], [B] z(+epsilon) - z and z(-epsilon) - z by mixing logits, the published way: the oracle in fp64."""
    f, g = world.logits, world.reference_logits

    def z(strength: float) -> Tensor:
        likelihood = log_likelihood((1 + strength) * f - strength * g, world.labels, world.mask)
        return likelihood[:3] - likelihood[3:]

    return z(epsilon) - z(0.0), z(-epsilon) - z(0.0)


def steps(up: Tensor, down: Tensor) -> list[int]:
    return (((up > 0) & (down < 0)).int() - ((up < 0) & (down > 0)).int()).tolist()


def deltas(world: World, epsilon: float) -> tuple[Tensor, Tensor]:
    given = inputs(Row("epsilon_dpo"), world)
    policy, reference = world.policy_logps(), given["reference"]
    u = ((policy - torch.cat([reference.chosen.logps, reference.rejected.logps])) * world.mask).sum(-1)
    up, down = given["log_partition"](epsilon, -epsilon)
    return epsilon * (u[:3] - u[3:]) - up.margin(), -epsilon * (u[:3] - u[3:]) - down.margin()


@pytest.mark.parametrize("epsilon", [0.005, 0.01, 0.02, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_closed_form_equals_three_softmaxes(seed: int, epsilon: float) -> None:
    world = World.random(seed, tokens=5, vocabulary=50)
    for ours, oracle in zip(deltas(world, epsilon), three_softmaxes(world, epsilon), strict=True):
        torch.testing.assert_close(ours, oracle, rtol=0, atol=1e-12)


def test_the_decision_of_each_pair_is_that_of_three_softmaxes() -> None:
    seen: set[int] = set()
    for seed in range(20):
        world = World.random(seed, vocabulary=50)
        value = loss(Row("epsilon_dpo", {"beta": 0.3, "epsilon": 0.02}), world)
        expected = steps(*three_softmaxes(world, 0.02))
        u = ((world.policy_logps() - inputs_logps(world)) * world.mask).sum(-1)
        beta_tilde = 0.3 / (1 + 0.02 * torch.tensor(expected, dtype=torch.float64))
        torch.testing.assert_close(value.per_example, torch.nn.functional.softplus(-beta_tilde * (u[:3] - u[3:])))
        seen |= set(expected)
    assert {-1, 1} <= seen


def inputs_logps(world: World) -> Tensor:
    return replace(world, logits=world.reference_logits).policy_logps()


def test_to_first_order_the_decision_is_the_sign_of_margin_minus_kl() -> None:
    for seed in range(10):
        world = World.random(seed, vocabulary=50).rows(torch.tensor([0, 3]))
        metrics = loss(Row("epsilon_dpo", {"epsilon": 1e-6}), world).metrics
        step, first_order, up = (
            metrics[f"epsilon_dpo/{name}"][0].item() for name in ("step", "first_order", "delta_up")
        )
        assert step == (1 if first_order > 0 else -1)
        assert up == pytest.approx(1e-6 * first_order, rel=1e-3)


def test_kl_is_the_one_of_the_distributions() -> None:
    world = World.random(3)
    p, r = world.logits.log_softmax(-1), world.reference_logits.log_softmax(-1)
    expected = ((p.exp() * (p - r)).sum(-1) * world.mask).sum(-1)
    kl = inputs(Row("epsilon_dpo"), world)["log_partition"].kl()
    torch.testing.assert_close(torch.cat([kl.chosen.sum(), kl.rejected.sum()]), expected)


def test_entries_that_both_models_exclude_do_not_count() -> None:
    world = World.random(4)
    blocked = torch.full((6, 5, 1), -torch.inf, dtype=torch.float64)
    wide = replace(
        world,
        logits=torch.cat([world.logits, blocked], -1),
        reference_logits=torch.cat([world.reference_logits, blocked], -1),
    )
    for ours, plain in zip(deltas(wide, 0.01), deltas(world, 0.01), strict=True):
        torch.testing.assert_close(ours, plain)
    assert loss(Row("epsilon_dpo"), wide).mean().isfinite()


def test_constants_added_to_logits_change_nothing() -> None:
    world = World.random(5)
    moved = replace(world, logits=world.logits + 7, reference_logits=world.reference_logits - 3)
    for ours, plain in zip(deltas(moved, 0.01), deltas(world, 0.01), strict=True):
        torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("update", "tolerance"), [("mean_step", 0.0), ("mean_beta", 1e-15)])
def test_equal_models_take_no_step_and_leave_beta_as_it_was(update: str, tolerance: float) -> None:
    world = World.random(6).at_reference()
    state = METHOD.initial_state(beta=0.0137, beta_update=update)
    value = loss(Row("epsilon_dpo", {"beta": 0.0137, "beta_update": update}), world, state=state)
    assert value.metrics["epsilon_dpo/step"][0].item() == 0
    assert value.mean().item() == pytest.approx(log(2))
    state.after_step(numbers(value))
    assert state.beta == pytest.approx(0.0137, rel=tolerance, abs=0)


def numbers(*losses: Loss) -> dict[str, tuple[float, float]]:
    """The (sum, count) of a step made of these micro-batches, as the trainer hands them to a state."""
    names = losses[0].metrics
    return {n: tuple(sum(value.metrics[n][i].item() for value in losses) for i in (0, 1)) for n in names}  # type: ignore[misc]


def test_swapping_chosen_and_rejected_flips_every_step() -> None:
    world = World.random(7, vocabulary=50)
    back = world.rows(torch.tensor([3, 4, 5, 0, 1, 2]))
    there = loss(Row("epsilon_dpo"), world).metrics["epsilon_dpo/step"][0]
    assert there != 0
    assert loss(Row("epsilon_dpo"), back).metrics["epsilon_dpo/step"][0] == -there


def test_the_slope_is_minus_beta_tilde_sigma_with_no_path_through_the_decision() -> None:
    world = World.random(8, vocabulary=50).rows(torch.tensor([0, 3]))
    logps = world.policy_logps().requires_grad_()
    value = loss(Row("epsilon_dpo", {"beta": 0.3, "epsilon": 0.02}), world, logps)
    slope = torch.autograd.grad(value.mean(), logps)[0]
    tilde, h = value.metrics["beta_tilde"][0].item(), value.metrics["dpo/margins"][0].item()
    assert tilde != 0.3
    expected = -tilde * torch.sigmoid(torch.tensor(-tilde * h, dtype=torch.float64))
    torch.testing.assert_close(slope[0, 0], expected)


def test_the_dead_zone_silences_small_changes() -> None:
    world = World.random(9, vocabulary=50)
    loud = loss(Row("epsilon_dpo", {"epsilon": 0.01}), world).metrics
    quiet = loss(Row("epsilon_dpo", {"epsilon": 0.01, "min_dz": 1.0}), world).metrics
    assert loud["epsilon_dpo/fraction_plus"][0] + loud["epsilon_dpo/fraction_minus"][0] == 3
    assert quiet["epsilon_dpo/fraction_plus"][0] + quiet["epsilon_dpo/fraction_minus"][0] == 0


class FixedChanges:
    """A log-partition that makes z(+e) - z and z(-e) - z what they are told to be when h = 0."""

    def __init__(self, up: list[float], down: list[float]) -> None:
        self.changes = up, down

    def __call__(self, *_: float) -> tuple[Pairs, ...]:
        return tuple(pairs([-x for x in change], [0.0] * len(change)) for change in self.changes)

    def kl(self) -> Pairs:
        return pairs([0.0] * len(self.changes[0]), [0.0] * len(self.changes[0]))


def test_a_step_needs_both_changes_beyond_the_dead_zone_and_of_opposite_sign() -> None:
    up, down = [1.0, 1.0, 1.0, -1.0, -1.0, -1.0, 0.0], [-1.0, -0.1, 1.0, 1.0, 0.1, -1.0, 0.0]
    zero, state = pairs([0.0] * 7, [0.0] * 7), Beta(0.1, 0.5, True)
    for min_dz, expected in ((0.0, [1, 1, 0, -1, -1, 0, 0]), (0.5, [1, 0, 0, -1, 0, 0, 0])):
        tilde = []
        for i in range(7):
            one = METHOD.loss(
                pairs([0.0], [0.0]), pairs([0.0], [0.0]), FixedChanges([up[i]], [down[i]]), state,
                beta=0.1, epsilon=0.5, min_dz=min_dz,
            )  # fmt: skip
            tilde.append(one.metrics["beta_tilde"][0].item())
        assert tilde == pytest.approx([0.1 / (1 + 0.5 * s) for s in expected])
    value = METHOD.loss(zero, zero, FixedChanges(up, down), state, beta=0.1, epsilon=0.5)
    assert value.metrics["epsilon_dpo/step"][0].item() == 0
    assert value.metrics["epsilon_dpo/fraction_minus"][0].item() == 2


def test_check_and_step_sizes_may_differ() -> None:
    world = World.random(9, vocabulary=50)
    value = loss(Row("epsilon_dpo", {"beta": 0.3, "epsilon": 0.5, "epsilon_check": 0.001}), world)
    up, _ = three_softmaxes(world, 0.001)
    assert value.metrics["epsilon_dpo/delta_up"][0].item() == pytest.approx(up.sum().item(), abs=1e-12)
    assert value.metrics["beta_tilde"][0].item() == pytest.approx(sum(0.3 / (1 + 0.5 * s) for s in steps(up, -up)))


def test_beta_shrinks_by_a_power_while_every_pair_steps_up() -> None:
    state = Beta.initial(beta=0.1, epsilon=0.01, beta_update="mean_step")
    for _ in range(50):
        state.after_step({"epsilon_dpo/step": (32.0, 32.0)})
    assert state.beta == pytest.approx(0.1 / 1.01**50, rel=1e-13)


def test_the_two_updates_are_the_harmonic_and_the_arithmetic_mean_of_beta_tilde() -> None:
    world, states = World.random(10, vocabulary=50), {}
    for update in ("mean_step", "mean_beta"):
        row = Row("epsilon_dpo", {"beta": 0.3, "epsilon": 0.1, "beta_update": update})
        states[update] = METHOD.initial_state(**row.hyperparameters)
        states[update].after_step(numbers(loss(row, world)))
    tilde = [0.3 / (1 + 0.1 * s) for s in steps(*three_softmaxes(world, 0.1))]
    assert states["mean_beta"].beta == pytest.approx(sum(tilde) / 3)
    assert states["mean_step"].beta == pytest.approx(3 / sum(1 / b for b in tilde))


def test_accumulation_gives_the_beta_of_the_whole_batch_exactly() -> None:
    row = Row("epsilon_dpo", {"beta": 0.3})
    world = World.random(11, vocabulary=50)
    whole, split = (METHOD.initial_state(**row.hyperparameters) for _ in range(2))
    whole.after_step(numbers(loss(row, world)))
    split.after_step(numbers(*(loss(row, world.rows(torch.tensor([i, i + 3]))) for i in range(3))))
    assert split.beta == whole.beta


def test_the_state_survives_saving_bit_for_bit() -> None:
    state = METHOD.initial_state(beta=0.1, epsilon=0.01)
    state.after_step({"epsilon_dpo/step": (7.0, 32.0)})
    again = Beta(**asdict(state))
    for one in (state, again):
        one.after_step({"epsilon_dpo/step": (-3.0, 32.0)})
    assert again == state


def test_the_reference_implementation_keeps_no_graph() -> None:
    f = torch.randn(1, 2, 3, requires_grad=True)
    mask = torch.ones(1, 2)
    (k,) = FullLogPartition.of(f, f, f, f, mask, mask)(0.01)
    assert isinstance(k, Pairs)
    assert not k.chosen.logps.requires_grad
