"""Schedules by hand, parameter groups, and what each optimizer is."""

import pytest
import torch
from torch import nn

from raypo.training.optim import configure, lr_at, make_optimizer
from raypo.training.settings import Optimisation


@pytest.mark.parametrize(("schedule", "expected"), [
    ("constant", [0.5, 1.0, 1.0, 1.0, 1.0]),
    ("linear", [0.5, 1.0, 1.0, 2 / 3, 1 / 3]),
    ("cosine", [0.5, 1.0, 1.0, 0.75, 0.25]),
])  # fmt: skip
def test_schedules_by_hand(schedule, expected):
    """Five steps, two of them warm-up; the decay starts at the full rate and would reach 0 just after the end."""
    o = Optimisation(lr=2.0, batch_size=1, steps=5, schedule=schedule, warmup=0.4)
    assert [lr_at(step, 5, o) for step in range(5)] == pytest.approx([2.0 * x for x in expected])


def test_without_warm_up_the_first_step_has_the_full_rate():
    assert lr_at(0, 10, Optimisation(lr=3.0, batch_size=1, steps=10, warmup=0.0)) == 3.0


@pytest.mark.parametrize("name", ["adamw", "rmsprop", "adafactor"])
def test_matrices_decay_and_vectors_do_not(name):
    layer = nn.Linear(3, 2)
    optimizer = make_optimizer(name, layer.parameters())
    configure(optimizer, Optimisation(lr=1.0, batch_size=1, steps=1, weight_decay=0.3, betas=(0.7, 0.8), eps=1e-5))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay == {id(layer.weight): 0.3, id(layer.bias): 0.0}
    if name == "adamw":
        assert optimizer.param_groups[0]["betas"] == (0.7, 0.8)
        assert optimizer.param_groups[0]["eps"] == 1e-5


def test_an_adamw_step_by_hand():
    """One parameter 1, gradient 4, lr 0.1, decay 0.5: 1 (1 - 0.05) - 0.1 * 4 / (4 + eps)."""
    p = nn.Parameter(torch.ones(1, 1))
    optimizer = make_optimizer("adamw", [p])
    configure(optimizer, Optimisation(lr=0.1, batch_size=1, steps=1, weight_decay=0.5))
    optimizer.param_groups[0]["lr"] = 0.1
    p.grad = torch.full((1, 1), 4.0)
    optimizer.step()
    assert p.item() == pytest.approx(0.95 - 0.1, abs=1e-6)
