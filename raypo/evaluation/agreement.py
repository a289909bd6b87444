"""How far judges agree with each other, and a judge with itself when answers change places."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def cohen_kappa(first: ArrayLike, second: ArrayLike) -> float:
    """Agreement of two judges' labels [N] beyond chance (Cohen 1960): 1 full, 0 chance; nan if both never vary.

    >>> cohen_kappa([1, 1, 0, 0], [1, 0, 0, 0])
    0.5
    """
    labels, codes = np.unique(np.concatenate([np.asarray(first), np.asarray(second)]), return_inverse=True)
    n, kinds = len(codes) // 2, len(labels)
    table = np.bincount(codes[:n] * kinds + codes[n:], minlength=kinds**2).reshape(kinds, kinds) / n
    expected = float(table.sum(1) @ table.sum(0))
    return (float(np.trace(table)) - expected) / (1 - expected) if expected < 1 else float("nan")


def order_consistency(shown_first: ArrayLike, shown_second: ArrayLike) -> float:
    """Share of comparisons [N] that a judge decides alike in both orders; scores are the same answer's in each."""
    first, second = np.asarray(shown_first, dtype=np.float64), np.asarray(shown_second, dtype=np.float64)
    there = ~np.isnan(first + second)
    return float((np.sign(first - 0.5) == np.sign(second - 0.5))[there].mean())


def place_bias(shown_first: ArrayLike, shown_second: ArrayLike) -> float:
    """How much being shown first helps, in [-1, 1]: mean score shown first minus mean score shown second."""
    return float(np.nanmean(np.asarray(shown_first, dtype=np.float64) - np.asarray(shown_second, dtype=np.float64)))
