"""The replay in small: the trap it is built around springs for Tune as shipped, and not for raypo."""

import logging

import optuna
import pytest
from replay_arms import Raypo, TuneAsShipped
from replay_problems import over_optimising_problems
from search_replay import mean_regret, regret


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("ray").setLevel(logging.ERROR)


def test_early_leaders_that_collapse_fool_tune_and_not_raypo() -> None:
    strong = [over_optimising_problems()[0]]
    tune, _ = mean_regret(TuneAsShipped, {"grace": 1 / 27, "factor": 3}, strong, budget=12, seeds=6, workers=4)
    ours, _ = mean_regret(Raypo, {"sampler": "tpe", "pruner": "median"}, strong, budget=12, seeds=6, workers=4)
    assert ours < 2
    assert tune > 3 * ours


def test_a_replay_repeats_and_keeps_to_its_budget() -> None:
    problem = over_optimising_problems()[1]
    arms = [Raypo(problem, 0, 4, sampler="tpe", pruner="successive_halving") for _ in range(2)]
    assert regret(arms[0], 8) == regret(arms[1], 8)
    assert [run.params for run in arms[0].runs] == [run.params for run in arms[1].runs]
    spent = sum(max(run.values) for run in arms[0].runs)
    assert 7 * problem.horizon <= spent <= 8 * problem.horizon
    assert all(run.over for run in arms[0].runs), "nothing is started that the budget cannot finish"
