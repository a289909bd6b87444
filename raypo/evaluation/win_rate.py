"""Win rates as estimates: every rate carries its n, its interval, its judge and its opponent.

Scores are in [0, 1]: the share of a comparison that goes to the configuration under test. 1 is a win, 0.5 a tie.
Pure functions on arrays; no model in sight.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from raypo.errors import JudgeError

Array = NDArray[np.floating[Any]]

Z = 1.959963984540054
"""97.5 % point of the normal distribution: every interval here is a 95 % one."""

PRIOR = 2.0
"""Pseudo-verdicts of full variance in `wilson`: about z^2 / 2, so that a row of ties alone has no zero width."""


@dataclass(frozen=True)
class Estimate:
    """A win rate in [0, 1] with all that is needed to read it.

    ci_low, ci_high: 95 % interval by `interval` ("wilson" or "bootstrap"); n: prompts it rests on; failed: comparisons
    without a verdict, which are counted here and nowhere else; ties: share of comparisons scored exactly one half.
    """

    win_rate: float
    ci_low: float
    ci_high: float
    n: int
    standard_error: float
    judge: str
    opponent: str
    interval: str = "wilson"
    failed: int = 0
    ties: float = 0.0

    def __str__(self) -> str:
        rate, low, high = (100 * x for x in (self.win_rate, self.ci_low, self.ci_high))
        return f"{rate:.1f} % [{low:.1f}, {high:.1f}] (n={self.n}, {self.judge} against {self.opponent})"


def estimate(
    scores: ArrayLike, *, judge: str, opponent: str, prompts: ArrayLike | None = None, seed: int = 0
) -> Estimate:
    """Estimate the win rate from scores [N]; nan marks a comparison without a verdict.

    `prompts` [N] names the prompt of each score where prompts repeat (several games, samples or judges each): scores
    of one prompt move together. Verdicts in {0, 0.5, 1}, one a prompt, get a Wilson interval, all else a bootstrap.
    """
    values: Array = np.asarray(scores, dtype=np.float64)
    there = ~np.isnan(values)
    values = checked_scores(values[there], len(there))
    named = np.arange(len(values)) if prompts is None else np.unique(np.asarray(prompts)[there], return_inverse=True)[1]
    clusters = int(named.max()) + 1
    single = clusters == len(values)
    by_wilson = single and bool(np.isin(values, (0.0, 0.5, 1.0)).all())
    low, high = wilson(values) if by_wilson else bootstrap(values, named, seed=seed)
    return Estimate(
        win_rate=float(values.mean()),
        ci_low=low,
        ci_high=high,
        n=clusters,
        standard_error=standard_error(values, named),
        judge=judge,
        opponent=opponent,
        interval="wilson" if by_wilson else "bootstrap",
        failed=int((~there).sum()),
        ties=float((values == 0.5).mean()),
    )


def wilson(scores: ArrayLike) -> tuple[float, float]:
    """95 % Wilson interval of the mean of verdicts in {0, 0.5, 1}.

    Ties make verdicts vary less than coin flips of the same mean, so n counts by the ratio of the two variances
    (Wilson 1927 with an effective n); without ties it is the textbook interval.

    >>> [round(bound, 4) for bound in wilson([1, 1, 1, 0])]
    [0.3006, 0.9544]
    """
    values = np.asarray(scores, dtype=np.float64)
    n, mean = float(len(values)), float(values.mean())
    coin = mean * (1 - mean)
    ratio = float(values.var()) / coin if coin > 0 else 1.0
    n = n / ((n * ratio + PRIOR) / (n + PRIOR))
    middle = (mean + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * np.sqrt(coin / n + Z * Z / (4 * n * n))
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def bootstrap(scores: ArrayLike, prompts: ArrayLike, *, seed: int = 0, resamples: int = 2000) -> tuple[float, float]:
    """95 % interval of the mean score [N], resampling prompts [N] (integers from 0) with all their scores.

    Studentised on the log-odds scale (bootstrap-t): it stays inside [0, 1] and covers near the ends, where
    percentiles of the resampled mean are too narrow.
    """
    sums, counts = _by_prompt(np.asarray(scores, dtype=np.float64), np.asarray(prompts))
    mean, error = _ratio(sums, counts, np.ones((1, len(sums))))
    if not 0 < mean[0] < 1 or error[0] < 1e-7 or len(sums) < 2:
        return wilson(sums / counts)
    means, errors = _ratio(sums, counts, resampled(len(sums), resamples, seed))
    return interval_from_resamples(float(mean[0]), float(error[0]), means, errors)


def interval_from_resamples(rate: float, error: float, rates: Array, errors: Array) -> tuple[float, float]:
    """95 % bootstrap-t interval on the log-odds scale, from a rate and resampled rates [R], each with its error."""
    usable = (rates > 0) & (rates < 1) & (errors > 0)
    rates, errors = rates[usable], errors[usable]
    studentised = (_log_odds(rates) - _log_odds(rate)) * rates * (1 - rates) / errors
    low_t, high_t = np.quantile(studentised, (0.025, 0.975))
    scale = error / (rate * (1 - rate))
    return _sigmoid(_log_odds(rate) - high_t * scale), _sigmoid(_log_odds(rate) - low_t * scale)


def standard_error(scores: ArrayLike, prompts: ArrayLike) -> float:
    """Standard error of the mean score [N], clustered by prompt [N] (integers from 0); nan for a single prompt."""
    sums, counts = _by_prompt(np.asarray(scores, dtype=np.float64), np.asarray(prompts))
    return float(_ratio(sums, counts, np.ones((1, len(sums))))[1][0]) if len(sums) > 1 else float("nan")


@lru_cache(maxsize=4)
def resampled(n: int, resamples: int, seed: int) -> Array:
    """[resamples, n] how often each of n prompts is drawn in each bootstrap resample."""
    drawn = np.random.default_rng(seed).integers(0, n, (resamples, n)) + n * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * n).reshape(resamples, n).astype(np.float64)


def checked_scores(values: Array, asked: int) -> Array:
    """The scores, if there are any and they lie in [0, 1]."""
    if not len(values):
        raise JudgeError(f"win rate: no verdict to estimate from, got {asked} comparisons and {asked} failures")
    if values.min() < 0 or values.max() > 1:
        raise JudgeError(f"win rate: scores must lie in [0, 1], got {values.min():g} to {values.max():g}")
    return values


def _by_prompt(values: Array, prompts: NDArray[np.int64]) -> tuple[Array, Array]:
    """Sum of scores and number of scores of each prompt."""
    return np.bincount(prompts, values).astype(np.float64), np.bincount(prompts).astype(np.float64)


def _ratio(sums: Array, counts: Array, weights: Array) -> tuple[Array, Array]:
    """Mean score and its linearised standard error under each row of weights [R, prompts]."""
    drawn, total = len(sums), weights @ counts
    means = (weights @ sums) / total
    squares = weights @ sums**2 - 2 * means * (weights @ (sums * counts)) + means**2 * (weights @ counts**2)
    return means, np.sqrt(np.maximum(squares, 0) * drawn / max(drawn - 1, 1)) / total


def _log_odds(rate: Any) -> Any:
    return np.log(rate) - np.log1p(-rate)


def _sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))
