"""Which hyperparameters mattered within a method: Optuna's PED-ANOVA over its fully trained trials."""

from __future__ import annotations

from collections.abc import Sequence

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from raypo.search.results import SearchResults, TrialResult, Value
from raypo.tracking.figures import objective

FEWEST = 5


def searched(results: SearchResults, method: str) -> dict[str, list[Value]]:
    """Return the hyperparameters that took several values in a method's trials, with the values in trial order."""
    return _columns([trial for trial in results.trials if trial.method == method])


def _columns(trials: Sequence[TrialResult]) -> dict[str, list[Value]]:
    names = dict.fromkeys(name for trial in trials for name in trial.hyperparameters)
    columns = {name: [t.hyperparameters[name] for t in trials if name in t.hyperparameters] for name in names}
    return {name: values for name, values in columns.items() if len(set(values)) > 1}


def is_number(value: Value) -> bool:
    """Whether a hyperparameter's value is a number rather than a choice."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_log(values: list[Value]) -> bool:
    """Whether values are better read on a logarithmic axis: positive, and spread over a factor of ten or more."""
    numbers = [float(value) for value in values if is_number(value)]
    return len(numbers) == len(values) > 0 and min(numbers) > 0 and max(numbers) >= 10 * min(numbers)


def importances(results: SearchResults, method: str) -> dict[str, float]:
    """Return the share of each searched hyperparameter, the largest first, summing to 1; empty for too few trials.

    One that only some trials have, because of a condition, is not weighed: there is no common scale for it.
    """
    trials = [trial for trial in results.trials if trial.method == method and trial.standing is not None]
    columns = {name: values for name, values in _columns(trials).items() if len(values) == len(trials)}
    if len(trials) < FEWEST or not columns or len({objective(trial) for trial in trials}) < 2:
        return {}
    axes = {name: _axis(values) for name, values in columns.items()}
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(direction="maximize")
        study.add_trials([_frozen(trial, axes) for trial in trials])
        return dict(optuna.importance.get_param_importances(study, params=list(axes)))
    finally:
        optuna.logging.set_verbosity(level)


def _axis(values: list[Value]) -> BaseDistribution:
    if all(is_number(value) for value in values):
        return FloatDistribution(float(min(values)), float(max(values)), log=is_log(values))
    return CategoricalDistribution(list(dict.fromkeys(values)))


def _frozen(trial: TrialResult, axes: dict[str, BaseDistribution]) -> optuna.trial.FrozenTrial:
    params = {name: trial.hyperparameters[name] for name in axes}
    return optuna.trial.create_trial(value=objective(trial), params=params, distributions=axes)
