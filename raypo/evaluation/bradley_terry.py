"""Bradley-Terry strengths of several configurations from comparisons between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse.csgraph import connected_components

from raypo.errors import JudgeError
from raypo.evaluation.win_rate import Array


def wins(first: ArrayLike, second: ArrayLike, scores: ArrayLike, players: int) -> Array:
    """[players, players] what the row's player scored against the column's, ties half.

    first, second [N] are players' numbers; scores [N] in [0, 1] are the first's, the rest is the second's;
    nan is skipped.
    """
    left, right = np.asarray(first), np.asarray(second)
    values = np.asarray(scores, dtype=np.float64)
    there = ~np.isnan(values)
    table = np.zeros((players, players))
    np.add.at(table, (left[there], right[there]), values[there])
    np.add.at(table, (right[there], left[there]), 1 - values[there])
    return table


def bradley_terry(table: ArrayLike, *, prior: float = 0.0, names: Sequence[str] = ()) -> Array:
    """[K] log-strengths s of maximum likelihood, of mean 0: P(i beats j) = sigmoid(s_i - s_j).

    Newton's method on the concave likelihood of Bradley and Terry (1952). `prior` adds that many games, half won, to
    every pair that has met. Raises JudgeError where no finite answer exists, naming a group that lost to
    nobody outside.

    >>> bradley_terry([[0, 3], [1, 0]]).round(4).tolist()
    [0.5493, -0.5493]
    """
    won = np.asarray(table, dtype=np.float64)
    met = won + won.T
    won = won + prior / 2 * (met > 0)
    _check_connected(won, names)
    games = won + won.T
    strengths = np.zeros(len(won))
    for _ in range(100):
        p = 1 / (1 + np.exp(strengths[None, :] - strengths[:, None]))
        slope = (won - games * p).sum(1)
        bent = games * p * (1 - p)
        curve = np.diag(bent.sum(1)) - bent
        # Strengths are defined up to a shift; the added rank pins their mean.
        step = np.linalg.solve(curve + bent.sum() / len(won) ** 2, slope)
        strengths = strengths + step * min(1.0, 2 / max(float(np.abs(step).max()), 1e-300))
        if np.abs(step).max() < 1e-13:
            break
    return strengths - strengths.mean()


def _check_connected(won: Array, names: Sequence[str]) -> None:
    """Every player must have taken something from every group of others, directly or through others (Ford 1957)."""
    groups, group = connected_components(won > 0, directed=True, connection="strong")
    if groups == 1:
        return
    losses = won > 0
    for g in range(groups):
        inside = group == g
        if not losses[~inside][:, inside].any():
            who = [names[i] if names else str(i) for i in np.flatnonzero(inside).tolist()]
            raise JudgeError(
                f"bradley-terry: {', '.join(who)} took points from others and gave none, so strengths are infinite; "
                "judge more prompts, or pass prior=1"
            )
