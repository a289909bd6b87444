"""Every published search space: it fits its method, and its losses are finite wherever it may go."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from raypo import yaml
from raypo.methods import METHODS, REQUIRED, Loss, Method, Pairs, check_corners
from raypo.spaces import Space, corners, parse
from raypo.study.study import TRAINING_AXES

FILES = sorted((Path(__file__).parents[2] / "search_spaces" / "methods").glob("*.yaml"))
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def read(path: Path) -> tuple[Method, dict[str, Any], list[dict[str, Any]]]:
    content = yaml.load_file(path)
    assert set(content) == {"method", "space", "priors"}
    return METHODS[content["method"]], {name: parse(v) for name, v in content["space"].items()}, content["priors"]


def of_method(space: dict[str, Any], method: Method) -> dict[str, Any]:
    return {name: value for name, value in space.items() if name in method.hyperparameters}


def sample(axes: dict[str, Any], generator: random.Random) -> dict[str, Any]:
    return {name: drawn(value, generator) if isinstance(value, Space) else value for name, value in axes.items()}


def drawn(space: Space, generator: random.Random) -> Any:
    if space.form == "choice":
        return generator.choice(space.values)
    low, high = float(space.values[0]), float(space.values[1])
    if space.form.startswith("log"):
        return low * (high / low) ** generator.random()
    return low + (high - low) * generator.random()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_its_space(name: str) -> None:
    assert name in {path.stem for path in FILES}


@every_file
def test_a_space_names_what_its_method_has_and_all_that_must_be_chosen(path: Path) -> None:
    method, space, _ = read(path)
    assert path.stem.startswith(method.name)
    assert [name for name in space if name not in method.hyperparameters and name not in TRAINING_AXES] == []
    assert [n for n, h in method.hyperparameters.items() if h.default is REQUIRED and n not in space] == []
    assert isinstance(space["lr"], Space)


@every_file
def test_priors_lie_in_the_space(path: Path) -> None:
    method, space, priors = read(path)
    for prior in priors:
        for name, value in prior.items():
            axis = space[name]
            assert isinstance(axis, Space), f"{name} is fixed"
            inside = value in axis.values if axis.form == "choice" else axis.values[0] <= value <= axis.values[1]
            assert inside, f"{name}={value} is outside {axis.written()}"
        method.resolve(
            of_method(prior, method) | {n: v for n, v in space.items() if not isinstance(v, Space) and n != "lr"}
        )


@every_file
def test_the_method_is_finite_with_its_gradient_at_every_corner(path: Path) -> None:
    method, space, _ = read(path)
    points = list(corners(of_method(space, method)))
    assert points
    assert check_corners(method, points) == []


@every_file
def test_the_method_is_finite_with_its_gradient_at_100_samples(path: Path) -> None:
    method, space, _ = read(path)
    axes, generator = of_method(space, method), random.Random(0)
    assert check_corners(method, [sample(axes, generator) for _ in range(100)]) == []


def naive(policy: Pairs, *, beta: float = 1.0) -> Loss:
    """A loss that overflows where log sigma is not taken in one piece."""
    return Loss.of(-(beta * policy.margin()).sigmoid().log())


def test_the_check_names_method_point_and_case_of_a_loss_that_breaks() -> None:
    problems = check_corners(Method.of(naive), [{"beta": 1.0}, {"beta": 0.5}])
    assert "naive: loss is not finite (got inf) on rejected 1e4 nats ahead at beta=1.0" in problems
    assert "naive: gradient of the log-probs is not finite on rejected 1e4 nats ahead at beta=0.5" in problems
    assert check_corners(METHODS["robust_dpo"], [{"epsilon": 0.5}]) == [
        "robust_dpo.epsilon: not allowed, got 0.5; needs a number in [0, 0.5)"
    ]


def returns_a_tensor(policy: Pairs, *, beta: float = 1.0) -> Loss:
    return beta * policy.margin()  # type: ignore[return-value]


def raises(policy: Pairs, *, beta: float = 1.0) -> Loss:
    raise ValueError(f"no {beta} for {len(policy)}")


def test_the_check_names_a_function_that_raises_or_returns_no_loss() -> None:
    assert check_corners(Method.of(returns_a_tensor), [{"beta": 0.5}]) == [
        "returns_a_tensor: must return a Loss, got Tensor; return Loss.of(values [n])"
    ]
    assert check_corners(Method.of(raises), [{"beta": 0.5}]) == [
        "raises: raises ValueError: no 0.5 for 3, on policy equal to reference at beta=0.5"
    ]
