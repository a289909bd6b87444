from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from raypo.errors import MethodError
from raypo.methods._annotations import Carries, PerNat, Positive
from raypo.methods._metrics import ranked_metrics
from raypo.methods._primitives import by_group, log_ratio
from raypo.methods._scores import Loss, Ranked


def brain(
    policy: Annotated[Ranked, Carries("score", 3)], reference: Ranked, *, beta: PerNat = 1.0, gamma: Positive = 1.0
) -> Loss:
    """Bayesian reward-conditioned distillation: match a softmax of rewards with a softmax of log-ratios.

        L = mean over prompts of -sum_i A_i log B_i,    A = softmax(r / gamma),    B = softmax(beta u)

    Paper: Pandey et al. 2024, BRAIn: Bayesian Reward-conditioned Amortized Inference for natural language generation
    from feedback (arXiv 2402.02479).

    This is the offline case, in which the answers come from the reference itself; the paper, with beta = 1, corrects
    by the proposal's log-probs where they do not. `beta` is our addition, so that it compares with DPO's.
    By hand: policy == reference makes B uniform, and three answers give log 3 whatever their rewards.

    >>> logps, rewards = torch.tensor([[-1.0], [-4.0], [-2.0]]), torch.tensor([1.0, 0.0, 0.5])
    >>> policy = Ranked.of(logps, None, torch.tensor([0, 0, 0]), rewards)
    >>> round(brain(policy, policy).mean().item(), 4)
    1.0986
    """
    if policy.scores.score is None:
        raise MethodError("brain.policy: needs scores, got none; use data with a score column")
    u = log_ratio(policy.scores, reference.scores)
    rows, real = by_group(policy.group)

    def log_softmax(values: Tensor) -> Tensor:
        return values[rows].masked_fill(~real, -torch.inf).log_softmax(-1)

    a = log_softmax(policy.scores.score.detach().to(u) / gamma).exp()
    loss = Loss.of(-(a * log_softmax(beta * u).masked_fill(~real, 0.0)).sum(-1))
    return loss.with_metrics(**ranked_metrics(policy, beta * u, reference))
