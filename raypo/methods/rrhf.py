from __future__ import annotations

from typing import Annotated, Literal

import torch

from raypo.errors import MethodError
from raypo.methods._annotations import Carries, NonNegative
from raypo.methods._metrics import ranked_metrics
from raypo.methods._primitives import by_group, nll
from raypo.methods._scores import Loss, Ranked, Scores, metric


def rrhf(
    policy: Annotated[Ranked, Carries("score", 2)],
    *,
    rank_weight: NonNegative = 1.0,
    lambda_: NonNegative = 1.0,
    length_penalty: NonNegative = 1.0,
    sft_reduction: Literal["token_mean", "sum"] = "token_mean",
) -> Loss:
    """Rank responses to align: likelihoods in the order of the scores, and likelihood of the best.

        L = rank_weight mean over prompts of sum over v_i > v_j of max(0, p_j - p_i) + lambda_ NLL(best)
        p = log pi(y) / |y|^length_penalty

    Paper: Yuan et al. 2023, RRHF: Rank Responses to Align Language Models with Human Feedback (arXiv 2304.05302),
    section 3.

    The authors weigh the rank term (100 in code, 1 in their scripts), the SimPO paper's baseline of two answers weighs
    the NLL by lambda_. "sum" is both papers' formula; the authors' code divides by the padded length with the prompt,
    so that its weight depends on padding, for which "token_mean" stands in. The hinge has no margin.
    By hand: p = -2 for the better, -1 for the worse of two one-token answers give 1 + 2.

    >>> policy = Ranked.of(torch.tensor([[-2.0], [-1.0]]), None, torch.tensor([0, 0]), torch.tensor([1.0, 0.0]))
    >>> rrhf(policy).mean().item()
    3.0
    """
    if policy.scores.score is None:
        raise MethodError("rrhf.policy: needs scores, got none; use data with a score column")
    p = policy.scores.sum() / policy.scores.lengths**length_penalty
    rows, real = by_group(policy.group)
    v = policy.scores.score.detach()[rows].masked_fill(~real, -torch.inf)
    better = (v[:, :, None] > v[:, None, :]) & real[:, None, :]
    violation = torch.relu(p[rows][:, None, :] - p[rows][:, :, None]).masked_fill(~better, 0.0)

    best = rows.gather(1, v.argmax(1, keepdim=True)).squeeze(1)
    sft = nll(Scores(policy.scores.logps[best], policy.scores.mask[best]), sft_reduction)
    metrics = ranked_metrics(policy, p) | {
        "rrhf/rank": metric(violation.sum((1, 2))),
        "rrhf/violations": metric(violation > 0, better),
        "rrhf/sft": metric(sft.terms[0].values),
    }
    return (rank_weight * Loss.of(violation.sum((1, 2))) + lambda_ * sft).with_metrics(**metrics)
