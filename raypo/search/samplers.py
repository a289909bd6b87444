"""Samplers by name, each a pure function of the ledger: what a trial tries can always be computed again.

Optuna's samplers carry random state and look at whatever has finished by now, so a killed search that goes on draws
other points than an undisturbed one. Here the suggestion for trial n is computed from `(seed, study name, n)` and from
what had been reported when it began, by the method's clock: ended trials, and for TPE those at work with the value they
had by then. The others count only by the hyperparameters they occupy (constant liar), finished or not. So a parallel
search repeats exactly. A failed or diverged trial has no value, but it occupies its place too: TPE keeps away from
where training blew up.
"""

import functools
import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from raypo.errors import StudyError, nearest
from raypo.search.clock import BEGAN, Clock, began
from raypo.search.cma import CmaSampler
from raypo.search.constraints import Rules
from raypo.search.grid import free_cells, grid_cells, next_cell
from raypo.search.results import Value
from raypo.search.rows import Known, replaced_by
from raypo.search.view import Space, View, draw, finished, fits, occupied, so_far

SAMPLERS = ("tpe", "gp", "cmaes", "random", "grid", "nsga2")

_OWN_TRIES = 10  # points a sampler may propose against the constraints before they are drawn uniformly
_UNIFORM_TRIES = 10_000
_POPULATION = 10  # nsga2: Optuna's 50 would spend most searches of language models on its first generation


def label_of(study: optuna.Study) -> str:
    """The method's own part of a study's name, which begins with the search's."""
    return study.study_name.rpartition("/")[2]


def seed_of(search_seed: int, study_name: str, trial_number: int) -> int:
    """A seed in [0, 2**32) for one trial of one study, the same on every machine and Python.

    >>> seed_of(0, "dpo", 3) == seed_of(0, "dpo", 3), seed_of(0, "dpo", 3) == seed_of(0, "ipo", 3)
    (True, False)
    """
    words = f"{search_seed}\n{study_name}\n{trial_number}"
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:4], "big")


def make_sampler(
    name: str, seed: int, space: Space, *, rules: Rules | None = None, clock: Clock | None = None, startup: int = 3
) -> "RepeatableSampler":
    """The sampler called `name` over `space`, its axes in order.

    `clock` says which trials had ended at a moment. `startup` trials are drawn at random before `tpe` or `gp` model the
    finished ones.

    Raises:
        StudyError: no such sampler, a package it needs is absent, or the space is not one it can search.
    """
    if name not in SAMPLERS:
        there_are = ", ".join(SAMPLERS)
        raise StudyError(f"search.sampler: no sampler {name!r}; there are {there_are}{nearest(name, SAMPLERS)}")
    sampler = RepeatableSampler(
        name, seed, dict(space), rules=rules or Rules(), clock=clock or Clock(), startup=startup
    )
    if name == "grid":
        _ = sampler.cells
    elif name == "cmaes":
        CmaSampler(space, seed)
    return sampler


class RepeatableSampler(BaseSampler):
    """An Optuna sampler without memory; made by `make_sampler`."""

    def __init__(self, name: str, seed: int, space: Space, *, rules: Rules, clock: Clock, startup: int) -> None:
        self.name, self.seed, self.space, self.rules, self.clock, self.startup = (
            name,
            seed,
            space,
            rules,
            clock,
            startup,
        )

    def ask(
        self,
        study: optuna.Study,
        attributes: Mapping[str, Any] | None = None,
        known: Known | None = None,
        now: float | None = None,
    ) -> optuna.Trial:
        """Open the study's next trial, enqueued or new, with a value for every active hyperparameter.

        It sees the trials that had ended `now`, or those that have where no moment is given.
        A new trial appears whole, its `attributes` with it, and an enqueued one is opened last of all, so that a crash
        leaves none that is half drawn. Who has `known` of the study's trials spares it a look at all of them.
        """
        storage, known = study._storage, known or Known(study.get_trials(deepcopy=False))
        waiting = next(iter(known.waiting), None)
        given = {} if waiting is None else _given(waiting)
        number, trials = known.next_number, [] if self._blind else study.get_trials(deepcopy=False)
        drawn = self._drawn(number, trials, study, given, now, known.next_seed)
        values = self.rules.active({**drawn, **given})
        attributes = {**(attributes or {}), **({} if now is None else {BEGAN: now})}
        params = {name: values[name] for name in self.space if name in values}
        axes = {name: self.space[name] for name in params}
        if waiting is None:
            opened = optuna.trial.create_trial(
                state=TrialState.RUNNING, params=params, distributions=axes, user_attrs=attributes
            )
            return optuna.Trial(study, storage.create_new_trial(study._study_id, opened))
        for name, axis in axes.items():
            storage.set_trial_param(waiting._trial_id, name, axis.to_internal_repr(params[name]), axis)
        for name, value in attributes.items():
            storage.set_trial_user_attr(waiting._trial_id, name, value)
        storage.set_trial_state_values(waiting._trial_id, TrialState.RUNNING)
        return optuna.Trial(study, waiting._trial_id)

    @property
    def _blind(self) -> bool:
        """Whether it draws without a look at what was found."""
        return self.name == "random"

    def suggest(
        self,
        number: int,
        trials: Sequence[FrozenTrial],
        study_name: str,
        directions: Sequence[StudyDirection],
        given: Mapping[str, Value] | None = None,
        now: float | None = None,
        seed: int | None = None,
    ) -> dict[str, Value]:
        """A value for every active hyperparameter of trial `number`, which begins `now`; those `given` are kept.

        What is random comes from `seed`, or else from the trial's number.

        Raises:
            StudyError: the grid is used up, or the constraints leave no room.
        """
        given = given or {}
        earlier = [] if self._blind else sorted((t for t in trials if t.number < number), key=lambda t: t.number)
        if self.name == "grid":
            return next_cell(self.cells, earlier, given)
        for point in self._points(number, seed, self._shown(earlier, directions, now), study_name, directions):
            values = self.rules.active({**point, **given})
            if given.keys() <= values.keys() and self.rules.allows(values):
                return values
        wanted = [f"{rule.text}, for {name}" for name, rule in self.rules.conditions.items() if name in given]
        limits = "; ".join([*(rule.text for rule in self.rules.constraints), *wanted])
        raise StudyError(f"search.constraints: none of {_UNIFORM_TRIES} points satisfies {limits}; relax a constraint")

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:  # noqa: ARG002
        return dict(self.space)

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],  # noqa: ARG002
    ) -> dict[str, Value]:
        trials = study.get_trials(deepcopy=False)
        return self._drawn(trial.number, trials, study, _given(trial), began(trial), None)

    def _drawn(
        self,
        number: int,
        trials: Sequence[FrozenTrial],
        study: optuna.Study,
        given: Mapping[str, Value],
        now: float | None,
        seed: int | None,
    ) -> dict[str, Value]:
        if self.space.keys() <= given.keys():
            return {}
        # The method's label alone, so that two searches of one study draw alike whatever they are called.
        return self.suggest(number, trials, label_of(study), study.directions, given, now, seed)

    def sample_independent(
        self,
        study: optuna.Study,  # noqa: ARG002
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Value:
        raise StudyError(
            f"trial {trial.number}: {param_name} = {param_distribution} was not drawn: inactive, or not in the space "
            f"{', '.join(self.space)}; ask for trials with RepeatableSampler.ask"
        )

    @functools.cached_property
    def cells(self) -> list[dict[str, Value]]:
        """The cells of a grid, in the order in which they are tried."""
        return grid_cells(self.space, self.rules, self.seed)

    def used_up(self, study: optuna.Study, known: Known) -> bool:
        """Whether a grid's cells are all tried and nothing is enqueued; others always have a point more."""
        if self.name != "grid" or known.waiting or known.drawn < len(self.cells):
            return False
        return not free_cells(self.cells, study.get_trials(deepcopy=False))

    def _points(
        self,
        number: int,
        own_seed: int | None,
        shown: list[FrozenTrial],
        study_name: str,
        directions: Sequence[StudyDirection],
    ) -> Iterator[dict[str, Value]]:
        """Points to try in turn: the sampler's own, then uniform ones where constraints leave it little room."""
        seed = seed_of(self.seed, study_name, number if own_seed is None else own_seed)
        view = View(shown, directions)
        trial = view.open_trial(number)
        sampler = self._fresh(seed)
        for attempt in range(1, _OWN_TRIES + 1):
            point = draw(sampler, view, trial, self.space)
            yield point
            # A refused point stays as an occupied place, or a sampler that maximises would propose it again.
            view.shown.append(occupied(point, self.space, number + attempt))
        uniform = RandomSampler(seed=seed)
        for _ in range(_UNIFORM_TRIES):
            yield draw(uniform, view, trial, self.space)

    def _fresh(self, seed: int) -> BaseSampler:
        """One of Optuna's samplers (or our CMA-ES) for a single suggestion."""
        match self.name:
            case "tpe" if self.rules.conditions:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                    return TPESampler(seed=seed, n_startup_trials=self.startup, multivariate=True, group=True)
            case "tpe":
                return TPESampler(seed=seed, n_startup_trials=self.startup)
            case "gp":
                return GPSampler(seed=seed, n_startup_trials=self.startup, warn_independent_sampling=False)
            case "cmaes":
                return CmaSampler(self.space, seed)
            case "nsga2":
                return NSGAIISampler(seed=seed, population_size=_POPULATION)
        return RandomSampler(seed=seed)

    def _shown(
        self, earlier: Sequence[FrozenTrial], directions: Sequence[StudyDirection], now: float | None
    ) -> list[FrozenTrial]:
        """The earlier trials as one that begins `now` may see them: with their values, or as mere places."""
        shown = []
        replaced = replaced_by(earlier)
        by_parts = self.name == "tpe" and len(directions) == 1  # only there a value on the way has a rank
        for trial in earlier:
            if trial.number in replaced or not trial.params or not fits(trial.params, self.space):
                continue
            if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) and self.clock.over(trial, now):
                shown.append(finished(trial, self.space))
                continue
            seen = self.clock.seen(trial, now) if by_parts else None
            if seen is not None and seen.state == TrialState.RUNNING and seen.intermediate_values:
                shown.append(so_far(seen, self.space))
            else:
                shown.append(occupied(trial.params, self.space, trial.number))
        if self.name == "nsga2":
            # One generation of all finished trials: the parents are then the best of the whole search, found without
            # the walk back through every generation that Optuna makes where it finds no notes of its own.
            for trial in shown:
                trial.system_attrs = {**trial.system_attrs, NSGAIISampler._get_generation_key(): 0}
        return shown


def _given(trial: FrozenTrial) -> dict[str, Value]:
    """The hyperparameters an enqueued trial came with."""
    return dict(trial.system_attrs.get("fixed_params", {}))
