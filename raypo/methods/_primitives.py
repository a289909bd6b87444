"""The mathematics that methods share, in forms that stay finite and keep their gradient.

Every `reference` is frozen: no gradient reaches it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from raypo.methods._scores import Loss, Pairs, Scores

LARGEST_LOG = -1e-7
"""Log-probabilities are held below this before log(1 - p) is taken: fp32 cannot tell smaller gaps from p = 1."""


def neg_logsigmoid(z: Tensor) -> Tensor:
    """-log sigma(z) = log(1 + exp(-z))."""
    return -F.logsigmoid(z)


def log1mexp(a: Tensor) -> Tensor:
    """log(1 - exp(a)) for a < 0; a above -1e-7 counts as -1e-7 and has no gradient."""
    a = a.clamp(max=LARGEST_LOG)
    near_zero = a > -math.log(2)
    # The branch not taken gets a harmless input, or its infinite slope would turn the gradient into NaN.
    near, far = torch.where(near_zero, a, -1.0), torch.where(near_zero, -1.0, a)
    return torch.where(near_zero, torch.log(-torch.expm1(near)), torch.log1p(-torch.exp(far)))


def log_odds(a: Tensor) -> Tensor:
    """log(p / (1 - p)) of p = exp(a), a <= 0."""
    return a - log1mexp(a)


def log_ratio(policy: Scores, reference: Scores, weights: Tensor | float = 1.0) -> Tensor:
    """[N] u(y) = sum_t w_t (log pi(y_t) - log pi_ref(y_t)), nats, from differences per token, where they are small."""
    return (weights * (policy.logps - reference.logps.detach())).sum(-1)


def log_ratios(policy: Pairs, reference: Pairs) -> tuple[Tensor, Tensor]:
    """[B], [B] u of the chosen and of the rejected completions."""
    return log_ratio(policy.chosen, reference.chosen), log_ratio(policy.rejected, reference.rejected)


def token_mean(values: Tensor, mask: Tensor) -> Loss:
    """Mean of per-token `values` [N, T] over all masked tokens of the step, whichever completion they belong to."""
    lengths = mask.sum(-1)
    return Loss.of((values * mask).sum(-1) / lengths.clamp(min=1), lengths)


def nll(scores: Scores, reduction: str = "token_mean") -> Loss:
    """Negative log-likelihood: "token_mean" over the step, or the mean over sequences of -A(y) ("sequence_mean")
    or of -S(y) ("sum").
    """
    if reduction == "token_mean":
        return token_mean(-scores.logps, scores.mask)
    return Loss.of(-scores.sum() if reduction == "sum" else -scores.mean())


def by_group(group: Tensor) -> tuple[Tensor, Tensor]:
    """Row numbers [G, K] of each group's members, and [G, K] which of them are real; groups in ascending order."""
    _, member, counts = group.unique(return_inverse=True, return_counts=True)
    column = torch.arange(int(counts.max()), device=group.device)
    rows = torch.argsort(member, stable=True)[((counts.cumsum(0) - counts)[:, None] + column).clamp(max=len(group) - 1)]
    return rows, column < counts[:, None]
