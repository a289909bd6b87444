"""Samplers: repeatable under concurrency and kills, inside the space, and better than chance."""

import importlib.util
import itertools
import math
import sys
from collections.abc import Mapping
from statistics import fmean
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState

from raypo.errors import StudyError
from raypo.search.clock import BEGAN, Clock, Timeline
from raypo.search.constraints import parse_rules
from raypo.search.rows import Known
from raypo.search.samplers import SAMPLERS, RepeatableSampler, make_sampler, seed_of

SPACE: dict[str, BaseDistribution] = {
    "beta": FloatDistribution(0.01, 1.0, log=True),
    "lr": FloatDistribution(1e-7, 1e-4, log=True),
    "epochs": IntDistribution(1, 4),
    "aggregate": CategoricalDistribution(["sum", "mean"]),
}
GRID: dict[str, BaseDistribution] = {
    "beta": CategoricalDistribution([0.01, 0.1, 1.0]),
    "epochs": IntDistribution(1, 2),
    "margin": FloatDistribution(0.0, 1.0, step=0.5),
    "lr": FloatDistribution(1e-6, 1e-6),
}

needs_cmaes = pytest.mark.skipif(importlib.util.find_spec("cmaes") is None, reason="the package cmaes is not installed")
MODELS = ["tpe", "gp", pytest.param("cmaes", marks=needs_cmaes), "random", "nsga2"]


def quality(params: Mapping[str, Any]) -> float:
    """Best at beta 0.1, lr 1e-5, mean."""
    distance = math.log10(params["beta"] * 10) ** 2 + math.log10(params["lr"] * 1e5) ** 2
    return -distance - 0.5 * (params.get("aggregate") == "sum") - 0.1 * params["epochs"]


def new_study(sampler: RepeatableSampler, name: str = "dpo") -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(direction="maximize", study_name=name, sampler=sampler)


def tell(study: optuna.Study, trial: optuna.Trial) -> None:
    """End a trial the way its number says: most finish, some are pruned, some diverge."""
    value = quality(trial.params)
    if trial.number % 5 == 3:
        trial.report(value, 1)
        study.tell(trial, state=TrialState.PRUNED)
    elif trial.number % 7 == 5:
        study.tell(trial, state=TrialState.FAIL)
    else:
        study.tell(trial, value)


def search(
    sampler: RepeatableSampler, count: int, study: optuna.Study | None = None, name: str = "dpo"
) -> list[dict[str, Any]]:
    """One trial after the other until the study has `count`."""
    study = study or new_study(sampler, name)
    while len(study.trials) < count:
        tell(study, sampler.ask(study))
    return [trial.params for trial in study.trials]


def concurrent_search(sampler: RepeatableSampler, count: int, order: int) -> list[dict[str, Any]]:
    """Up to four trials at a time, which end in an order that differs from run to run."""
    study, running, timeline = new_study(sampler), [], Timeline(sampler.clock)
    while len(study.trials) < count or running:
        trials = study.get_trials(deepcopy=False)
        now = timeline.next(4, Known(trials), trials.__getitem__)
        if len(trials) < count and now is not None:
            running.append(sampler.ask(study, now=now))
            continue
        tell(study, running.pop(order * 7919 * len(trials) % len(running)))
    return [trial.params for trial in study.trials]


def test_seeds_differ_by_search_study_and_trial() -> None:
    seeds = [seed_of(*key) for key in itertools.product((0, 1), ("dpo", "ipo", "dpo1"), range(100))]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert seed_of(0, "dpo", 0) == 4088761265, "a seed must never change, or no search could be continued"


@pytest.mark.parametrize("name", MODELS)
def test_every_hyperparameter_lies_in_its_space(name: str) -> None:
    for params in search(make_sampler(name, 0, SPACE), 24 if name != "gp" else 6):
        assert params.keys() == SPACE.keys()
        assert 0.01 <= params["beta"] <= 1
        assert 1e-7 <= params["lr"] <= 1e-4
        assert params["epochs"] in (1, 2, 3, 4)
        assert params["aggregate"] in ("sum", "mean")


@pytest.mark.parametrize("name", MODELS)
def test_two_methods_and_two_seeds_draw_differently(name: str) -> None:
    draws = [
        search(make_sampler(name, seed, SPACE), 3, name=study) for seed, study in [(0, "dpo"), (0, "ipo"), (1, "dpo")]
    ]
    betas = [params["beta"] for draw in draws for params in draw]
    assert len(set(betas)) == 9


@pytest.mark.parametrize("name", MODELS)
def test_a_killed_search_goes_on_as_if_it_had_not_been(name: str) -> None:
    count = 28 if name != "gp" else 7
    whole = search(make_sampler(name, 0, SPACE), count)
    study = new_study(make_sampler(name, 0, SPACE))
    search(study.sampler, count - 3, study)
    resumed = search(make_sampler(name, 0, SPACE), count - 1, study)
    study.sampler = make_sampler(name, 0, SPACE)
    again = study.sampler.suggest(count - 1, study.trials, study.study_name, study.directions)
    assert [*resumed, again] == whole


@pytest.mark.parametrize("name", MODELS)
def test_a_parallel_search_repeats_whatever_finishes_first(name: str) -> None:
    count = 24 if name != "gp" else 8
    clock = Clock((1 / 3, 2 / 3, 1.0))
    runs = [concurrent_search(make_sampler(name, 0, SPACE, clock=clock), count, order) for order in (1, 2)]
    assert runs[0] == runs[1]


def test_results_of_later_are_hidden_but_not_their_places() -> None:
    sampler = make_sampler("tpe", 0, SPACE)
    study = new_study(sampler)
    for number in range(12):
        tell(study, sampler.ask(study, now=float(number)))
    trials, now = study.get_trials(deepcopy=False), 10.0

    def drawn() -> dict[str, Any]:
        return sampler.suggest(12, trials, "dpo", study.directions, now=now)

    before = drawn()
    trials[11].values, trials[10].state = [100.0], TrialState.FAIL
    assert drawn() == before, "trial 10 ended at 11, trial 11 at 12"
    trials[9].values = [100.0]
    assert drawn() != before, "trial 9 ended at 10"


def test_tpe_learns_from_trials_at_work_what_they_had_by_then() -> None:
    """Small values do well at the first evaluation; with mere places in the same spots nobody could know."""

    def drawn(told: bool, now: float, goals: int = 1) -> list[float]:
        trials = []
        for number in range(12):
            x = number / 11
            attributes = {BEGAN: 0.0} | ({"evaluation:0": {}} if told else {})
            trial = optuna.trial.create_trial(
                state=TrialState.RUNNING,
                params={"x": x},
                distributions={"x": FloatDistribution(0.0, 1.0)},
                intermediate_values={0: 1.0 - x} if told else {},
                user_attrs=attributes,
            )
            trial.number = number
            trials.append(trial)
        sampler = make_sampler("tpe", 0, {"x": FloatDistribution(0.0, 1.0)}, clock=Clock((0.5, 1.0)))
        return [
            float(sampler.suggest(number, trials, "dpo", [StudyDirection.MAXIMIZE] * goals, now=now)["x"])
            for number in range(12, 32)
        ]

    assert fmean(drawn(told=True, now=0.5)) < 0.3 < fmean(drawn(told=False, now=0.5))
    assert drawn(told=True, now=0.4) == drawn(told=False, now=0.4), "they told nothing before a half"
    assert drawn(told=True, now=0.5, goals=2) == drawn(told=False, now=0.5, goals=2), "one value ranks no two goals"


def test_tpe_keeps_away_from_where_training_diverged() -> None:
    """Diverged trials have no value; a sampler that forgot them would return there for ever."""
    sampler = make_sampler("tpe", 0, {"lr": SPACE["lr"]})

    def share_of_large_rates(diverging: bool) -> float:
        large = 0
        for name in map(str, range(20)):
            study = new_study(sampler, name)
            for _ in range(25):
                trial = sampler.ask(study)
                if trial.params["lr"] > 1e-5 and diverging:
                    study.tell(trial, state=TrialState.FAIL)
                else:
                    study.tell(trial, 0.0 if trial.params["lr"] > 1e-5 else trial.number % 3)
                large += trial.number >= 15 and trial.params["lr"] > 1e-5
        return large / 200

    assert share_of_large_rates(diverging=True) < 0.2 < 1 / 3


@pytest.mark.parametrize("name", ["tpe", "gp", pytest.param("cmaes", marks=needs_cmaes)])
def test_models_beat_chance(name: str) -> None:
    space = {"beta": SPACE["beta"], "lr": SPACE["lr"]}
    count, seeds = (15, 2) if name == "gp" else (50, 4)

    def mean_best(sampler: str) -> float:
        total = 0.0
        for seed in range(seeds):
            study = new_study(make_sampler(sampler, seed, space))
            for _ in range(count):
                trial = study.sampler.ask(study)
                study.tell(trial, quality({**trial.params, "aggregate": "mean", "epochs": 0}))
            total += study.best_value / seeds
        return total

    assert mean_best(name) > 0.5 * mean_best("random"), "values are losses below 0, so half is nearer"


def test_nsga2_pushes_both_objectives() -> None:
    """Over generations the front moves: win rate up and length down at once."""

    def front(sampler: str) -> float:
        study = optuna.create_study(directions=["maximize", "minimize"], study_name="dpo")
        study.sampler = make_sampler(sampler, 0, {name: FloatDistribution(0, 1) for name in "abcdef"})
        for _ in range(120):
            trial = study.sampler.ask(study)
            rest = sum(trial.params[name] for name in "bcdef")
            study.tell(trial, [trial.params["a"] - rest, trial.params["a"] ** 2 + rest])
        return sum(trial.values[0] - trial.values[1] for trial in study.trials[-40:]) / 40

    assert front("nsga2") > front("random") + 1


def test_an_enqueued_trial_keeps_its_values_and_the_rest_is_drawn() -> None:
    sampler = make_sampler("tpe", 0, SPACE, rules=parse_rules(["beta * lr <= 1e-6"], SPACE))
    study = new_study(sampler)
    study.enqueue_trial({"beta": 0.5})
    study.enqueue_trial({"beta": 0.1, "lr": 5e-7, "epochs": 1, "aggregate": "sum"})
    first, second = sampler.ask(study), sampler.ask(study)
    assert first.params["beta"] == 0.5
    assert first.params["lr"] <= 2e-6
    assert second.params == {"beta": 0.1, "lr": 5e-7, "epochs": 1, "aggregate": "sum"}


@pytest.mark.parametrize("name", MODELS)
def test_constraints_hold_for_every_trial(name: str) -> None:
    rules = parse_rules(["beta * lr <= 1e-8", "epochs != 2"], SPACE)
    for params in search(make_sampler(name, 0, SPACE, rules=rules), 20 if name != "gp" else 6):
        assert params["beta"] * params["lr"] <= 1e-8
        assert params["epochs"] != 2


def test_a_model_whose_favourite_is_forbidden_proposes_its_neighbours() -> None:
    """Not a uniform draw: the refused points stay in view as places to keep away from."""
    space = {"x": FloatDistribution(0, 1)}
    sampler = make_sampler("gp", 0, space, rules=parse_rules(["x <= 0.9"], space))
    suggested = []
    for name in map(str, range(3)):
        study = new_study(sampler, name)
        for x in (0.0, 0.2, 0.4, 0.6, 0.8):
            study.enqueue_trial({"x": x})
            study.tell(sampler.ask(study), x)
        suggested.append(sampler.ask(study).params["x"])
    assert all(0.5 < x <= 0.9 for x in suggested)


def test_constraints_without_room_are_refused() -> None:
    sampler = make_sampler("random", 0, SPACE, rules=parse_rules(["beta > 1"], SPACE))
    with pytest.raises(StudyError, match="none of 10000 points satisfies beta > 1"):
        search(sampler, 1)


@pytest.mark.parametrize("name", MODELS)
def test_conditional_hyperparameters_come_and_go(name: str) -> None:
    space = {**SPACE, "margin": FloatDistribution(0, 2)}
    rules = parse_rules((), space, conditions={"margin": "aggregate == mean"})
    trials = search(make_sampler(name, 0, space, rules=rules, startup=6), 24 if name != "gp" else 9)
    assert {("margin" in params, params["aggregate"]) for params in trials} == {(True, "mean"), (False, "sum")}


def test_a_range_that_grew_is_searched_whole() -> None:
    """After an extension the old trials still inform the new, wider space."""
    narrow = make_sampler("tpe", 0, {"lr": FloatDistribution(1e-7, 1e-6, log=True)})
    study = new_study(narrow)
    for _ in range(20):
        trial = narrow.ask(study)
        study.tell(trial, math.log10(trial.params["lr"]))
    wide = make_sampler("tpe", 0, {"lr": FloatDistribution(1e-7, 1e-4, log=True)})
    suggestions = [wide.suggest(20, study.trials, name, study.directions)["lr"] for name in map(str, range(40))]
    assert max(suggestions) > 1e-6
    assert sum(lr > 7e-7 for lr in suggestions) > 30, "the best trials were at the upper edge"


def test_grid_visits_every_cell_once_and_says_when_it_is_done() -> None:
    sampler = make_sampler("grid", 0, GRID)
    study = new_study(sampler)
    study.enqueue_trial({"beta": 0.1, "epochs": 1, "margin": 0.5, "lr": 1e-6})
    cells = [tuple(params.values()) for params in search(sampler, 18, study)]
    assert sorted(cells) == sorted(itertools.product([0.01, 0.1, 1.0], [1, 2], [0.0, 0.5, 1.0], [1e-6]))
    assert cells[1:] != sorted(cells[1:]), "a search that is stopped early has seen all of the space"
    with pytest.raises(StudyError, match="all 18 cells of the grid are tried"):
        search(sampler, 19, study)


def test_grid_obeys_constraints_and_merges_cells_that_conditions_make_equal() -> None:
    rules = parse_rules(["beta < 1"], GRID, conditions={"margin": "epochs == 2"})
    sampler = make_sampler("grid", 0, GRID, rules=rules)
    cells = search(sampler, 2 * (1 + 3))
    assert sum("margin" in params for params in cells) == 6
    assert all(params["beta"] < 1 for params in cells)


def test_mistakes_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StudyError, match=r"no sampler 'cmeas'; there are .*; did you mean 'cmaes'"):
        make_sampler("cmeas", 0, SPACE)
    with pytest.raises(StudyError, match="continuous beta = FloatDistribution"):
        make_sampler("grid", 0, SPACE)
    with pytest.raises(StudyError, match="1000000 cells"):
        make_sampler("grid", 0, {name: IntDistribution(1, 100) for name in "abc"})
    monkeypatch.setitem(sys.modules, "cmaes", None)
    with pytest.raises(StudyError, match=r"needs the package 'cmaes'.*pip install cmaes"):
        make_sampler("cmaes", 0, SPACE)


def test_every_sampler_is_covered_here() -> None:
    named = {value if isinstance(value, str) else value.values[0] for value in MODELS}
    assert named | {"grid"} == set(SAMPLERS)
