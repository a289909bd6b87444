"""Differences between configurations judged on the same prompts, and many of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from raypo.errors import JudgeError
from raypo.evaluation.win_rate import Array

LEAST = 0.25
"""Least sum of squared differences: a single prompt that differs by half a win."""


@dataclass(frozen=True)
class Difference:
    """Mean of (one's score - the other's) over n prompts, in win-rate units, with a 95 % interval.

    p_value: two-sided, for no difference; dropped: prompts without a verdict on either side.
    """

    difference: float
    ci_low: float
    ci_high: float
    p_value: float
    n: int
    standard_error: float
    dropped: int = 0


def paired_difference(scores: ArrayLike, others: ArrayLike) -> Difference:
    """Student's paired t on scores [N] and [N] of the same prompts; nan marks a missing verdict.

    Rows of a prompt that repeats are to be averaged first. The spread counts as at least `LEAST`, so that two
    configurations that happen to agree everywhere are not called equal for certain.
    """
    ours, theirs = np.asarray(scores, dtype=np.float64), np.asarray(others, dtype=np.float64)
    if ours.shape != theirs.shape:
        raise JudgeError(f"paired difference: needs the same prompts, got {ours.shape} and {theirs.shape} scores")
    apart = ours - theirs
    apart = apart[~np.isnan(apart)]
    n = len(apart)
    if n < 2:
        raise JudgeError(f"paired difference: needs 2 prompts with verdicts on both sides, got {n} of {len(ours)}")
    mean = float(apart.mean())
    error = float(np.sqrt(max(((apart - mean) ** 2).sum(), LEAST) / (n - 1) / n))
    half = float(stats.t.ppf(0.975, n - 1)) * error
    p_value = float(2 * stats.t.sf(abs(mean) / error, n - 1))
    return Difference(mean, max(-1.0, mean - half), min(1.0, mean + half), p_value, n, error, len(ours) - n)


def holm(p_values: Sequence[float] | Array) -> Array:
    """[N] p-values that hold for all N comparisons together (Holm 1979).

    >>> holm([0.01, 0.04, 0.03]).round(4).tolist()
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values)
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted
