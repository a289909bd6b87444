"""What a sampler may see of a study: a stand-in that shows chosen trials and keeps to itself what is written to it."""

import copy
import math
from collections.abc import Container, Mapping, Sequence

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from raypo.search.results import Value

Space = Mapping[str, BaseDistribution]


class View(optuna.Study):
    """A study made of exactly the given trials; the samplers' own notes go to a storage that dies with it."""

    def __init__(self, shown: list[FrozenTrial], directions: Sequence[StudyDirection]) -> None:
        storage = InMemoryStorage()
        storage.create_new_study(directions, "view")
        super().__init__("view", storage, sampler=RandomSampler(), pruner=optuna.pruners.NopPruner())
        self.shown = shown

    def get_trials(self, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        return self._get_trials(deepcopy, states)

    def _get_trials(
        self,
        deepcopy: bool = True,  # noqa: ARG002
        states: Container[TrialState] | None = None,
        use_cache: bool = False,  # noqa: ARG002
    ) -> list[FrozenTrial]:
        return [trial for trial in self.shown if states is None or trial.state in states]

    def open_trial(self, number: int) -> FrozenTrial:
        """The trial that is being drawn, `number` in the ledger, though this view's storage has no other."""
        trial = self._storage.get_trial(self._storage.create_new_trial(self._study_id))
        trial.number = number
        return trial


def draw(sampler: BaseSampler, view: View, trial: FrozenTrial, space: Space) -> dict[str, Value]:
    """One point as `optuna.Trial` would draw it: first the axes a sampler draws together, then the others in turn."""
    together = sampler.infer_relative_search_space(view, trial)
    point = sampler.sample_relative(view, trial, together)
    for name, axis in space.items():
        if name not in point:
            alone = RandomSampler(seed=0) if axis.single() else sampler
            point[name] = alone.sample_independent(view, trial, name, axis)
    return {name: point[name] for name in space}


def finished(trial: FrozenTrial, space: Space) -> FrozenTrial:
    """A finished trial as if it had been drawn from today's space, so that a range extended since is modelled whole."""
    seen = copy.copy(trial)
    seen.distributions = {name: space[name] for name in trial.params}
    return seen


def so_far(trial: FrozenTrial, space: Space) -> FrozenTrial:
    """A trial at work as if it had been pruned: behind every finished one, by how far it got and what it had there."""
    seen = finished(trial, space)
    seen.state = TrialState.PRUNED
    return seen


def occupied(params: Mapping[str, Value], space: Space, number: int) -> FrozenTrial:
    """A trial that has a place but no value, which constant liars keep away from."""
    axes = {name: space[name] for name in params}
    trial = optuna.trial.create_trial(state=TrialState.RUNNING, params=dict(params), distributions=axes)
    trial.number = number
    return trial


def fits(params: Mapping[str, Value], space: Space) -> bool:
    """Whether every value lies in `space`, which may have been narrowed since it was drawn."""
    return all(name in space and _contains(space[name], value) for name, value in params.items())


def _contains(axis: BaseDistribution, value: Value) -> bool:
    if isinstance(axis, CategoricalDistribution):
        return any(value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in axis.choices)
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return number and bool(axis._contains(axis.to_internal_repr(value)))
