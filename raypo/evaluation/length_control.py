"""Length-controlled win rates: what the win rate would be if both answers were equally long.

The model of AlpacaEval 2 (Dubois et al. 2024, arXiv 2404.04475, eq. 2), fitted without a network:

    score ~ sigmoid(quality + length_effect * tanh(d / sd(d)) + difficulty_effect * difficulty)

where d = opponent's - own length; the length-controlled rate is the mean of that with d = 0. A ridge of `RIDGE`
stands for the published L1 penalty, whose strength comes from cross-validation: the two differ by 0.1 points at most
on the public board.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from raypo.evaluation.win_rate import Array, Estimate, checked_scores, interval_from_resamples, resampled, wilson

RIDGE = np.array([0.001, 0.02, 0.02])
"""Of quality, length and difficulty; least on the quality, which it only keeps finite where all is won."""
STEPS = 25


@dataclass(frozen=True)
class Anchors:
    """Comparisons of the opponent with verbose and concise versions of itself, which steady the length effect.

    scores, length_term (tanh of the scaled length difference) and difficulty are [M]; each row weighs `weight`.
    """

    scores: Array
    length_term: Array
    difficulty: Array
    weight: float = 0.1


@dataclass(frozen=True)
class LengthControlled:
    """A length-controlled win rate and the coefficients it rests on, in log-odds."""

    estimate: Estimate
    quality: float
    length_effect: float
    difficulty_effect: float


class _Fit(NamedTuple):
    """For each of R resamples: coefficients [R, 3], length-controlled rate [R] and its standard error [R]."""

    coefficients: Array
    rates: Array
    errors: Array


def length_controlled(
    scores: ArrayLike,
    lengths: ArrayLike,
    opponent_lengths: ArrayLike,
    *,
    judge: str,
    opponent: str,
    difficulty: ArrayLike | None = None,
    anchors: Anchors | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> LengthControlled:
    """Fit the length-controlled win rate of scores [N] in [0, 1], one a prompt; nan marks a missing verdict.

    Lengths are [N], in any one unit. `difficulty` [N] is how hard each prompt is for the opponent, in log-odds, where
    that is known. The interval is bootstrapped over prompts and through the fit.
    """
    values: Array = np.asarray(scores, dtype=np.float64)
    there = ~np.isnan(values)
    values = checked_scores(values[there], len(there))
    differences = (np.asarray(opponent_lengths, dtype=np.float64) - np.asarray(lengths, dtype=np.float64))[there]
    hardness = np.zeros(len(values)) if difficulty is None else np.asarray(difficulty, dtype=np.float64)[there]
    whole = _fit(values, differences, hardness, np.ones((1, len(values))), anchors, np.zeros(3))
    start = whole.coefficients[0]
    redrawn = _fit(values, differences, hardness, resampled(len(values), resamples, seed), anchors, start)
    if whole.errors[0] > 0:
        rate, error = float(whole.rates[0]), float(whole.errors[0])
        low, high = interval_from_resamples(rate, error, redrawn.rates, redrawn.errors)
    else:
        low, high = wilson(values)  # all prompts tie, as where a model answers like its opponent: nothing to resample
    found = Estimate(
        win_rate=float(whole.rates[0]),
        ci_low=low,
        ci_high=high,
        n=len(values),
        standard_error=float(whole.errors[0]),
        judge=judge,
        opponent=opponent,
        interval="bootstrap",
        failed=int((~there).sum()),
        ties=float((values == 0.5).mean()),
    )
    return LengthControlled(found, float(start[0]), float(start[1]), float(start[2]))


def length_term(lengths: Array, opponent_lengths: Array) -> Array:
    """[N] tanh of the length difference, opponent's minus own, in units of its standard deviation."""
    return _scaled(np.asarray(opponent_lengths - lengths, dtype=np.float64), np.ones((1, len(lengths))))[0]


def _scaled(differences: Array, weights: Array) -> Array:
    """[R, N] the length term under each row of weights, whose own standard deviation it is measured in."""
    total = weights.sum(1)
    mean = weights @ differences / total
    variance = (weights @ differences**2 - total * mean**2) / np.maximum(total - 1, 1)
    deviation = np.sqrt(np.maximum(variance, 0))
    return np.tanh(differences / np.where(deviation > 0, deviation, np.inf)[:, None])


def _fit(
    scores: Array, differences: Array, difficulty: Array, weights: Array, anchors: Anchors | None, start: Array
) -> _Fit:
    """Newton's method for each row of weights [R, N] at once."""
    length = _scaled(differences, weights)
    coefficients = np.tile(start, (len(weights), 1))
    for _ in range(STEPS):
        p = _sigmoid(_linear(coefficients, length, difficulty))
        slope, curve = _derivatives(weights * (scores - p), weights * p * (1 - p), length, difficulty)
        if anchors is not None:
            slope, curve = slope + (more := _anchor_derivatives(anchors, coefficients))[0], curve + more[1]
        slope, curve = slope - RIDGE * coefficients, curve + np.diag(RIDGE)
        step = np.linalg.solve(curve, slope[..., None])[..., 0]
        longest = np.maximum(np.abs(step).max(1, keepdims=True), 1e-12)
        coefficients = coefficients + step * np.minimum(1, 4 / longest)
        if longest.max() < 1e-8:
            break
    rates, gradient = _rates(coefficients, difficulty, weights)
    direction: Array = np.linalg.solve(curve, gradient[..., None])[..., 0]
    level = _sigmoid(coefficients[:, :1] + coefficients[:, 2:] * difficulty)
    residual: Array = (scores - p) * _linear(direction, length, difficulty)
    influence = (level - rates[:, None]) / weights.sum(1)[:, None] + residual
    n = len(scores)
    return _Fit(coefficients, rates, np.sqrt((weights * influence**2).sum(1) * n / max(n - 1, 1)))


def _linear(coefficients: Array, length: Array, difficulty: Array) -> Array:
    """[R, N] the linear predictor under each row of coefficients [R, 3]: quality, length, difficulty."""
    return coefficients[:, :1] + coefficients[:, 1:2] * length + coefficients[:, 2:] * difficulty


def _derivatives(residual: Array, curvature: Array, length: Array, difficulty: Array) -> tuple[Array, Array]:
    """Gradient [R, 3] and negative Hessian [R, 3, 3] of the log-likelihood from its terms [R, N]."""
    slope = np.stack([residual.sum(1), (residual * length).sum(1), residual @ difficulty], -1)
    bent = curvature * length
    ones, ones_length, ones_difficulty = curvature.sum(1), bent.sum(1), curvature @ difficulty
    length_length, length_difficulty = (bent * length).sum(1), bent @ difficulty
    rows = [
        [ones, ones_length, ones_difficulty],
        [ones_length, length_length, length_difficulty],
        [ones_difficulty, length_difficulty, curvature @ difficulty**2],
    ]
    return slope, np.stack([np.stack(row, -1) for row in rows], -2)


def _anchor_derivatives(anchors: Anchors, coefficients: Array) -> tuple[Array, Array]:
    """What anchors add; an anchor compares the opponent with itself and says nothing of the quality."""
    p = _sigmoid(coefficients[:, 1:2] * anchors.length_term + coefficients[:, 2:] * anchors.difficulty)
    residual, curvature = anchors.weight * (anchors.scores - p), anchors.weight * p * (1 - p)
    slope, curve = _derivatives(residual, curvature, anchors.length_term, anchors.difficulty)
    apart = np.array([0.0, 1.0, 1.0])
    return slope * apart, curve * np.outer(apart, apart)


def _rates(coefficients: Array, difficulty: Array, weights: Array) -> tuple[Array, Array]:
    """Length-controlled rate [R]: the mean prediction at equal lengths; and its gradient [R, 3]."""
    total = weights.sum(1)
    level = _sigmoid(coefficients[:, :1] + coefficients[:, 2:] * difficulty)
    slope = weights * level * (1 - level)
    gradient = np.stack([slope.sum(1), np.zeros(len(slope)), slope @ difficulty], -1)
    return (weights * level).sum(1) / total, gradient / total[:, None]


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-np.clip(x, -500, 500)))
