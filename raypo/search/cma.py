"""CMA-ES as a pure function of the finished trials, without the pickled optimiser that Optuna's own keeps in storage.

The optimiser is rebuilt for every suggestion by telling it the finished trials, one generation after the other; that
costs about 0.1 ms a generation and leaves nothing behind that a killed search could lose or a stranger could forge.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from raypo.errors import StudyError
from raypo.search.results import Value

_FIRST_SPREAD = 1 / 6  # of the unit cube: three standard deviations reach from its centre to its walls


class CmaSampler(BaseSampler):
    """Draws numeric axes from the distribution CMA-ES (Hansen, 2016) has adapted so far, choices uniformly."""

    def __init__(self, space: Mapping[str, BaseDistribution], seed: int) -> None:
        self._cmaes = _import_cmaes()
        self._axes = {name: d for name, d in sorted(space.items()) if _numeric(d) and not d.single()}
        self._seed = seed
        self._optimiser: Any = None
        self._uniform = RandomSampler(seed=seed)
        if len(self._axes) < 2:
            raise StudyError(f"search.sampler: cmaes needs two numeric axes or more, got {len(self._axes)}; use tpe")

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:  # noqa: ARG002
        return self._axes

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,  # noqa: ARG002
        search_space: dict[str, BaseDistribution],  # noqa: ARG002
    ) -> dict[str, Value]:
        if self._optimiser is None:
            self._optimiser = self._adapted(study)
        point = self._optimiser.ask()
        return {name: _from_unit(float(u), axis) for u, (name, axis) in zip(point, self._axes.items(), strict=True)}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Value:
        return self._uniform.sample_independent(study, trial, param_name, param_distribution)

    def _adapted(self, study: optuna.Study) -> Any:
        """The optimiser after every full generation of finished trials, in order of their numbers."""
        walls = np.tile([0.0, 1.0], (len(self._axes), 1))
        optimiser = self._cmaes.CMA(mean=np.full(len(self._axes), 0.5), sigma=_FIRST_SPREAD, bounds=walls, seed=0)
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        told = [trial for trial in finished if self._axes.keys() <= trial.params.keys()]
        size = optimiser.population_size
        for start in range(0, len(told) - size + 1, size):
            generation = told[start : start + size]
            ranks = _ranks(generation, study.direction)
            optimiser.tell([(self._to_unit(trial), rank) for trial, rank in zip(generation, ranks, strict=True)])
        optimiser.reseed_rng(self._seed)
        return optimiser

    def _to_unit(self, trial: FrozenTrial) -> NDArray[np.float64]:
        return np.array([_to_unit(float(trial.params[name]), axis) for name, axis in self._axes.items()])


def _import_cmaes() -> Any:
    try:
        import cmaes
    except ImportError:
        raise StudyError(
            "search.sampler: cmaes needs the package 'cmaes', which is not installed; pip install cmaes, or use tpe"
        ) from None
    return cmaes


def _ranks(generation: Sequence[FrozenTrial], direction: StudyDirection) -> list[float]:
    """Places in the generation, 0 the best: all that CMA-ES uses. A pruned trial is behind every finished one."""
    sign = -1.0 if direction == StudyDirection.MAXIMIZE else 1.0

    def badness(index: int) -> tuple[bool, float]:
        trial = generation[index]
        return trial.state != TrialState.COMPLETE, math.inf if trial.value is None else sign * trial.value

    places = {index: float(place) for place, index in enumerate(sorted(range(len(generation)), key=badness))}
    return [places[index] for index in range(len(generation))]


def _numeric(distribution: BaseDistribution) -> bool:
    return not isinstance(distribution, CategoricalDistribution)


def _edges(axis: BaseDistribution) -> tuple[float, float, bool]:
    """Low and high edge, and whether the axis is logarithmic; an integer owns half a step to either side."""
    assert isinstance(axis, FloatDistribution | IntDistribution)
    margin = axis.step / 2 if axis.step else 0.0
    return axis.low - margin, axis.high + margin, axis.log


def _to_unit(value: float, axis: BaseDistribution) -> float:
    low, high, log = _edges(axis)
    if log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low)


def _from_unit(u: float, axis: BaseDistribution) -> Value:
    """The axis' value at `u` in [0, 1], rounded to its step and kept inside its bounds."""
    low, high, log = _edges(axis)
    value = math.exp(math.log(low) + u * (math.log(high) - math.log(low))) if log else low + u * (high - low)
    assert isinstance(axis, FloatDistribution | IntDistribution)
    if axis.step:
        value = axis.low + round((value - axis.low) / axis.step) * axis.step
    value = min(max(value, axis.low), axis.high)
    return round(value) if isinstance(axis, IntDistribution) else value
