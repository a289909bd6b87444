"""Every interval contains the truth in 93 to 97 of 100 repetitions of the experiment it describes."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from scipy import stats

from raypo.evaluation.length_control import length_controlled
from raypo.evaluation.paired import paired_difference
from raypo.evaluation.racing import Race, interval
from raypo.evaluation.win_rate import bootstrap, wilson

RATES = (0.5, 0.7, 0.95)
SIZES = (64, 256, 805)
GRID = np.linspace(1e-4, 1 - 1e-4, 20001)

Experiment = Callable[[np.random.Generator, int, float], tuple[float, float, float]]
"""(low, high, truth) of one repetition with n prompts at a win rate."""


def coins_and_ties(rng: np.random.Generator, n: int, rate: float) -> tuple[float, float, float]:
    tie = min(0.3, 1 - rate)
    return *wilson(rng.choice([1, 0.5, 0], size=n, p=[rate - tie / 2, tie, 1 - rate - tie / 2])), rate


@cache
def quantiles(rate: float) -> np.ndarray:
    """Of scores as log-prob judges give them: most near 0 and 1, standard deviation about 0.4 at a rate of a half."""
    return stats.beta.ppf(GRID, 0.6 * rate, 0.6 * (1 - rate))


def scores(rng: np.random.Generator, n: int, rate: float) -> tuple[float, float, float]:
    return *bootstrap(rng.beta(0.6 * rate, 0.6 * (1 - rate), n), np.arange(n), resamples=1000), rate


def three_games_a_prompt(rng: np.random.Generator, n: int, rate: float) -> tuple[float, float, float]:
    prompt = np.repeat(rng.beta(3 * rate, 3 * (1 - rate), n), 3).clip(1e-6, 1 - 1e-6)
    return *bootstrap(rng.beta(2 * prompt, 2 * (1 - prompt)), np.repeat(np.arange(n), 3), resamples=1000), rate


def length_control(rng: np.random.Generator, n: int, rate: float) -> tuple[float, float, float]:
    own, other = rng.normal(260, 80, n), rng.normal(200, 80, n)
    longer = np.tanh((other - own) / (80 * np.sqrt(2)))
    mean = 1 / (1 + (1 - rate) / rate * np.exp(longer))
    judged = rng.beta(0.6 * mean, 0.6 * (1 - mean))
    found = length_controlled(judged, own, other, judge="j", opponent="o", resamples=400).estimate
    return found.ci_low, found.ci_high, rate


def two_correlated(rng: np.random.Generator, n: int) -> np.ndarray:
    """Uniform [2, n] as two configurations meet the same prompts: correlation 0.6."""
    shared = rng.normal(size=(2, n))
    shared[1] = 0.6 * shared[0] + 0.8 * shared[1]
    return stats.norm.cdf(shared)


def paired_scores(rng: np.random.Generator, n: int, rate: float) -> tuple[float, float, float]:
    ours, theirs = two_correlated(rng, n)
    found = paired_difference(np.interp(ours, GRID, quantiles(rate)), np.interp(theirs, GRID, quantiles(rate - 0.04)))
    return found.ci_low, found.ci_high, 0.04


def paired_verdicts(rng: np.random.Generator, n: int, rate: float) -> tuple[float, float, float]:
    ours, theirs = two_correlated(rng, n)
    found = paired_difference((ours < rate) * 1.0, (theirs < rate - 0.04) * 1.0)
    return found.ci_low, found.ci_high, 0.04


def coverage(experiment: Experiment, n: int, rate: float, repetitions: int) -> float:
    rng = np.random.default_rng(int(1000 * rate) + n)
    runs = (experiment(rng, n, rate) for _ in range(repetitions))
    return float(np.mean([low <= truth <= high for low, high, truth in runs]))


QUICK = (coins_and_ties, paired_scores, paired_verdicts)
COSTLY = (scores, three_games_a_prompt, length_control)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("n", SIZES)
def test_coverage_of_wilson_is_right_by_exact_sums(n: int, rate: float) -> None:
    intervals = [wilson([1.0] * wins + [0.0] * (n - wins)) for wins in range(n + 1)]
    held = [stats.binom.pmf(wins, n, rate) for wins, (low, high) in enumerate(intervals) if low <= rate <= high]
    assert 0.93 <= sum(held) <= 0.97


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("experiment", QUICK)
def test_coverage(experiment: Experiment, n: int, rate: float) -> None:
    assert 0.93 <= coverage(experiment, n, rate, repetitions=2000) <= 0.97


@pytest.mark.parametrize("rate", [RATES[0], *(pytest.param(rate, marks=pytest.mark.slow) for rate in RATES[1:])])
@pytest.mark.parametrize("experiment", COSTLY)
def test_coverage_of_bootstraps_at_64_prompts(experiment: Experiment, rate: float) -> None:
    assert 0.93 <= coverage(experiment, 64, rate, repetitions=2000) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("n", SIZES[1:])
@pytest.mark.parametrize("experiment", COSTLY)
def test_coverage_of_bootstraps(experiment: Experiment, n: int, rate: float) -> None:
    assert 0.93 <= coverage(experiment, n, rate, repetitions=2000) <= 0.97


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("n", SIZES)
def test_racing_intervals_hold_after_every_block_together(n: int, rate: float) -> None:
    """Looking after each block costs nothing: at least 95 of 100 races see no interval that excludes the final mean."""
    held = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        ours, theirs = two_correlated(rng, n)
        apart = (ours < rate) * 1.0 - (theirs < rate - 0.04)
        race = Race(n, block=32, error=0.025)
        looks = [interval(apart[:end], race) for end in range(race.block, n, race.block)]
        held.append(all(low <= apart.mean() <= high for low, high in looks))
    assert np.mean(held) >= 0.95
