"""TRL's own loss code on the same random log-probs, where TRL is installed (the `bench` extra).

Its trainers are run as functions: `self` and the model are stand-ins that hand out prepared log-probs. Left out is what
TRL has under these names but computes otherwise: cDPO (its label smoothing is ignored), SLiC (its hinge has a
reference), and ORPO next to p = 1 (its gradient is NaN there).
"""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from table import Row, World, inputs, loss
from torch import Tensor

from raypo.methods import Pairs, Unpaired

pytest.importorskip("trl", minversion="1.16", reason="TRL is not installed: pip install raypo[bench]")
SEEDS = range(3)


def stand_in(**attributes: Any) -> Any:
    """A trainer that has the attributes its loss reads and gathers over one process."""
    same = lambda x: x  # noqa: E731
    accelerator = SimpleNamespace(device=torch.device("cpu"), gather=same, gather_for_metrics=same)
    model = torch.nn.Module().eval()
    model.is_gradient_checkpointing = False
    return SimpleNamespace(
        model=model,
        accelerator=accelerator,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        aux_loss_enabled=False,
        precompute_ref_logps=False,
        use_weighting=False,
        loss_weights=[1.0],
        f_divergence_type="reverse_kl",
        label_smoothing=0.0,
        ld_alpha=None,
        _metrics={"eval": defaultdict(list)},
        _total_train_tokens=0,
        **attributes,
    )


def output(logps: Tensor) -> Any:
    """What TRL's patched models return: log-probs [N, T], 0 off the mask, and statistics that only its logs read."""
    zero = torch.zeros_like(logps)
    return SimpleNamespace(log_probs=logps, entropy=zero, mean_logits=zero, is_top1=zero.bool())


def tokens(mask: Tensor) -> dict[str, Tensor]:
    """Input ids, attention and completion masks with one prompt token in front."""
    wide = torch.nn.functional.pad(mask, (1, 0))
    ids = torch.zeros_like(wide, dtype=torch.long)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "completion_mask": wide.long()}


def trl_dpo(world: World, policy: Pairs, reference: Pairs, loss_type: str, beta: float, **attributes: Any) -> Tensor:
    from trl.trainer.dpo_trainer import DPOTrainer

    frozen, live = (output(torch.cat([side.chosen.logps, side.rejected.logps])) for side in (reference, policy))
    trainer = stand_in(beta=beta, loss_types=[loss_type], ref_model=lambda **_: frozen)
    vars(trainer).update(attributes)
    value: Tensor = DPOTrainer._compute_loss(trainer, lambda **_: live, tokens(world.mask), return_outputs=False)
    return value


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("row", "loss_type", "attributes"),
    [
        (Row("dpo", {"beta": 0.3}), "sigmoid", {}),
        (Row("robust_dpo", {"beta": 0.3, "epsilon": 0.2}), "robust", {"label_smoothing": 0.2}),
        (Row("ipo", {"tau": 0.3, "aggregate": "mean"}), "ipo", {}),
        (Row("ld_dpo", {"beta": 0.3, "alpha": 0.4}), "sigmoid", {"ld_alpha": 0.4}),
    ],
    ids=lambda value: str(value) if isinstance(value, Row) else "",
)
def test_pairwise_losses_with_a_reference(row: Row, loss_type: str, attributes: dict[str, Any], seed: int) -> None:
    world, ours, theirs, policy = both_sides(seed)
    expected = trl_dpo(world, policy, inputs(row, world)["reference"], loss_type, 0.3, **attributes)
    agree(loss(row, world, ours).mean(), expected, ours, theirs)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shift", [-3.0, 1.0])
def test_kto(seed: int, shift: float) -> None:
    from trl.trainer.kto_trainer import KTOTrainer

    row = Row("kto", {"beta": 0.3, "lambda_desirable": 1.3, "lambda_undesirable": 0.8})
    world = World.random(seed)
    reference: Unpaired = inputs(row, world)["reference"]
    ours, theirs = (world.policy_logps().requires_grad_() for _ in range(2))
    mismatched = world.mismatched + shift
    trainer = stand_in(
        beta=0.3, desirable_weight=1.3, undesirable_weight=0.8, loss_type="kto", calculate_KL=True,
        ref_model=lambda **_: output(reference.scores.logps),
    )  # fmt: skip
    answers = iter([mismatched, torch.zeros_like(mismatched)])
    trainer._compute_kl_logps = lambda *_: next(answers)
    masked = torch.where(world.mask, theirs, 0.0)
    batch = tokens(world.mask) | {"label": reference.desirable}
    expected = KTOTrainer._compute_loss(trainer, lambda **_: output(masked), batch, return_outputs=False)
    agree(loss(row, world, ours, mismatched=mismatched).mean(), expected, ours, theirs)


@pytest.mark.parametrize("seed", SEEDS)
def test_simpo(seed: int) -> None:
    from trl.experimental.cpo.cpo_trainer import CPOTrainer

    world, ours, theirs, policy = both_sides(seed)
    trainer = stand_in(beta=2.0, alpha=0.0, simpo_gamma=1.4, loss_type="simpo")
    expected = CPOTrainer.cpo_loss(trainer, policy.chosen.mean(), policy.rejected.mean())[0].mean()
    agree(loss(Row("simpo", {"beta": 2.0, "gamma_beta_ratio": 0.7}), world, ours).mean(), expected, ours, theirs)


@pytest.mark.parametrize("seed", SEEDS)
def test_cpo(seed: int) -> None:
    from trl.experimental.cpo.cpo_trainer import CPOTrainer

    world, ours, theirs, policy = both_sides(seed)
    trainer = stand_in(beta=2.0, alpha=0.0, loss_type="sigmoid")
    preference = CPOTrainer.cpo_loss(trainer, policy.chosen.sum(), policy.rejected.sum())[0].mean()
    expected = preference - 0.5 * policy.chosen.logps.sum() / policy.chosen.mask.sum()
    agree(loss(Row("cpo", {"beta": 2.0, "lambda_": 0.5}), world, ours).mean(), expected, ours, theirs)


@pytest.mark.parametrize("seed", SEEDS)
def test_orpo(seed: int) -> None:
    from trl.experimental.orpo.orpo_trainer import ORPOTrainer

    world, ours, theirs, policy = both_sides(seed)
    nll = -policy.chosen.logps.sum() / policy.chosen.mask.sum()
    # TRL returns +lambda log sigma here and subtracts it; it also casts to fp32.
    ratio = ORPOTrainer.odds_ratio_loss(stand_in(beta=0.4), policy.chosen.mean(), policy.rejected.mean())[0]
    value = loss(Row("orpo", {"lambda_": 0.4}), world, ours).mean()
    agree(value, nll - ratio.mean(), ours, theirs, gradient_tolerance=1e-5)


def both_sides(seed: int) -> tuple[World, Tensor, Tensor, Pairs]:
    """A world, its policy log-probs twice as leaves, and the pairs of the second."""
    world = World.random(seed)
    ours, theirs = (world.policy_logps().requires_grad_() for _ in range(2))
    return world, ours, theirs, Pairs.of(theirs[:3], theirs[3:], world.mask[:3], world.mask[3:])


def agree(value: Tensor, expected: Tensor, ours: Tensor, theirs: Tensor, gradient_tolerance: float = 1e-6) -> None:
    """Equal to 1e-6 relative, in value and in gradient."""
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    value.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=gradient_tolerance, atol=1e-8)
