from __future__ import annotations

from typing import Annotated

import torch

from raypo.errors import MethodError
from raypo.methods._annotations import Carries, PerNat
from raypo.methods._metrics import ranked_metrics
from raypo.methods._primitives import by_group, log_ratio, neg_logsigmoid
from raypo.methods._scores import Loss, Ranked


def rank_dpo(policy: Annotated[Ranked, Carries("score", 3)], reference: Ranked, *, beta: PerNat = 0.1) -> Loss:
    """DPO on all pairs of a scored list, each weighed by what swapping it would do to the list's DCG (LiPO-lambda).

        L = mean over prompts of -sum over v_i > v_j of Delta_ij log sigma(beta (u_i - u_j))
        Delta_ij = |2^v_i - 2^v_j| |1 / log(1 + rank_i) - 1 / log(1 + rank_j)|

    Paper: Karthik et al. 2024, Scalable Ranked Preference Optimization for Text-to-Image Generation (arXiv 2410.18013);
    for text, Liu et al. 2024, LiPO: Listwise Preference Optimization through Learning-to-Rank (arXiv 2402.01878).

    Ranks are those of the scores v (a figure there suggests the model's), 1 is best, equal scores share the better
    rank and are never compared. Gains explode for raw rewards: bring scores into [0, 1]. For two answers L is
    Delta DPO. The paper's beta is for images; none is published for text.
    By hand: scores 1 and 0, policy == reference: Delta = 1 (1/log 2 - 1/log 3), L = Delta log 2.

    >>> policy = Ranked.of(torch.tensor([[-1.0], [-4.0]]), None, torch.tensor([0, 0]), torch.tensor([1.0, 0.0]))
    >>> round(rank_dpo(policy, policy).mean().item(), 4)
    0.3691
    """
    if policy.scores.score is None:
        raise MethodError("rank_dpo.policy: needs scores, got none; use data with a score column")
    u = log_ratio(policy.scores, reference.scores)
    rows, real = by_group(policy.group)
    v = policy.scores.score.detach()[rows]
    better = (v[:, :, None] > v[:, None, :]) & real[:, :, None] & real[:, None, :]

    discount = 1 / torch.log(2 + better.sum(1).to(u))
    gain = torch.exp2(v.to(u))
    delta = (gain[:, :, None] - gain[:, None, :]).abs() * (discount[:, :, None] - discount[:, None, :]).abs()
    pairs = neg_logsigmoid(beta * (u[rows][:, :, None] - u[rows][:, None, :]))
    loss = Loss.of((torch.where(better, delta, 0.0) * pairs).sum((1, 2)))
    return loss.with_metrics(**ranked_metrics(policy, beta * u, reference))
