"""Learning curves to replay a search on: recorded ones (LCBench) and simulated ones that over-optimise."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

PROMPTS = 805
_GRADE_SPREAD = 0.25  # of one prompt's score around its expectation: two orders, a graded judge


@dataclass(frozen=True)
class Problem:
    """Curves over a space: `curve(params)` holds percent at the steps 1..horizon, `best` the highest final value.

    `noise` is the standard deviation in points of one prompt's score; 0 where the recorded value is all there is.
    """

    name: str
    space: Mapping[str, BaseDistribution]
    horizon: int
    best: float
    curve: Callable[[Mapping[str, float]], NDArray[np.float64]]
    noise: float = 0.0

    def scores(self, params: Mapping[str, float], step: int, seed: int) -> NDArray[np.float64]:
        """Scores per prompt, percent: one number without noise, else prompts of very different difficulty."""
        value = self.curve(params)[step - 1]
        if not self.noise:
            return np.array([value])
        difficulty = np.random.default_rng(0).normal(0, 20, PROMPTS)
        return value + difficulty - difficulty.mean() + np.random.default_rng(seed).normal(0, self.noise, PROMPTS)


def lcbench(shared: Path) -> list[Problem]:
    """Six tabulated tasks; a suggestion is the recorded configuration nearest to it."""
    table = np.load(shared / "data/llm_sweeps/lcbench_surrogate_table.npz")
    names = [str(name) for name in table["config_names"]]
    space = {name: _LCBENCH_AXES[name] for name in names}
    units = np.stack([_unit(table["configs"][:, i], space[name]) for i, name in enumerate(names)], axis=1)

    def problem(task: str, curves: NDArray[np.float64]) -> Problem:
        def curve(params: Mapping[str, float]) -> NDArray[np.float64]:
            point = np.array([_unit(np.array(params[name]), space[name]) for name in names])
            return curves[np.argmin(((units - point) ** 2).sum(axis=1))]

        return Problem(f"lcbench {task}", space, curves.shape[1], float(curves[:, -1].max()), curve)

    curves = table["val_accuracy"].astype(np.float64)
    return [problem(str(task), curves[i]) for i, task in enumerate(table["instances"])]


def over_optimising(strength: float, name: str) -> Problem:
    """Win rates that rise with the distance from the start model, peak, and fall (Gao et al., 2023).

    Distance grows with the learning rate and shrinks with beta; past the peak the win rate falls with `strength`. So a
    large learning rate passes the peak early, leads at the first evaluations, and has collapsed at the end.
    """
    space = {
        "lr": FloatDistribution(1e-7, 1e-4, log=True),
        "beta": FloatDistribution(0.01, 1.0, log=True),
    }
    horizon = 81
    progress = (np.arange(1, horizon + 1) / horizon) ** 0.6

    def curve(params: Mapping[str, float]) -> NDArray[np.float64]:
        beta = np.log10(params["beta"])
        distance = progress * (params["lr"] / 3e-6) ** 0.6 * 10 ** (-0.4 * (beta + 1))
        peak = 20 - 4 * (beta + 1.3) ** 2
        falling = 1 - strength * np.log(distance) ** 2
        return np.maximum(50 + peak * np.where(distance < 1, distance * (2 - distance), falling), 2.0)

    return Problem(name, space, horizon, 70.0, curve, noise=100 * _GRADE_SPREAD)


def over_optimising_problems() -> list[Problem]:
    return [over_optimising(0.3, "strong"), over_optimising(0.1, "medium"), over_optimising(0.03, "mild")]


def _unit(values: NDArray[np.float64], axis: BaseDistribution) -> NDArray[np.float64]:
    assert isinstance(axis, FloatDistribution | IntDistribution)
    low, high = float(axis.low), float(axis.high)
    if axis.log:
        return np.log(values / low) / np.log(high / low)
    return (values - low) / (high - low)


_LCBENCH_AXES: dict[str, BaseDistribution] = {
    "batch_size": IntDistribution(16, 512, log=True),
    "learning_rate": FloatDistribution(1e-4, 1e-1, log=True),
    "momentum": FloatDistribution(0.1, 0.99),
    "weight_decay": FloatDistribution(1e-5, 0.1),
    "num_layers": IntDistribution(1, 5),
    "max_units": IntDistribution(64, 1024, log=True),
    "max_dropout": FloatDistribution(0.0, 1.0),
}
