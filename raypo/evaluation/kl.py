"""How far a policy moved from its reference, measured on its own samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Divergence:
    """KL(policy || reference) of whole answers, in nats, by two estimators; per_token: k1 over all tokens' number.

    k1 is the mean log-ratio: unbiased, noisy, may be negative. k3 is the mean of r - 1 - log r with r the reference's
    over the policy's probability of each token, summed: never negative, less noisy. Both are those of the policy only
    for samples at temperature 1 and top_p 1; otherwise they measure the samples that were judged.
    Source: Schulman, "Approximating KL divergence", 2020.
    """

    k1: float
    k3: float
    k1_error: float
    k3_error: float
    per_token: float


def divergence(policy: Sequence[ArrayLike], reference: Sequence[ArrayLike]) -> Divergence:
    """Estimate KL from token log-probs, one array [tokens] an answer, of the same tokens under both models.

    >>> divergence([[-1.0, -1.0]], [[-1.0, -2.0]]).k1
    1.0
    """
    ratios = [
        np.asarray(r, dtype=np.float64) - np.asarray(p, dtype=np.float64)
        for p, r in zip(policy, reference, strict=True)
    ]
    k1 = np.array([-ratio.sum() for ratio in ratios])
    k3 = np.array([(np.expm1(ratio) - ratio).sum() for ratio in ratios])
    tokens = sum(len(ratio) for ratio in ratios)
    errors = [float(k.std(ddof=1) / np.sqrt(len(k))) if len(k) > 1 else float("nan") for k in (k1, k3)]
    return Divergence(float(k1.mean()), float(k3.mean()), errors[0], errors[1], float(k1.sum()) / max(tokens, 1))
