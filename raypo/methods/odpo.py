from __future__ import annotations

from math import inf
from typing import Annotated, Literal

import torch
from torch import Tensor

from raypo.errors import MethodError
from raypo.methods._annotations import Carries, GapAbove, NonNegative, PerNat
from raypo.methods._metrics import pair_metrics
from raypo.methods._primitives import log_ratios, neg_logsigmoid
from raypo.methods._scores import Loss, Pairs, metric

LOWEST_GAP = {"log": 0.0, "log1p": -1.0, "identity": -inf}


def odpo(
    policy: Annotated[Pairs, Carries("score"), GapAbove("scale", LOWEST_GAP)],
    reference: Pairs,
    *,
    beta: PerNat = 0.1,
    alpha: NonNegative = 1.0,
    scale: Literal["log", "log1p", "identity"] = "log",
) -> Loss:
    """DPO with an offset: the better a pair's scores tell it apart, the wider the margin it must reach.

        L = mean of -log sigma(beta h - alpha f(score(chosen) - score(rejected))),    f = log, log(1 + .) or identity

    Paper: Amini et al. 2024, Direct Preference Optimization with an Offset (arXiv 2402.10571).

    The authors' code always takes the logarithm, which gave the published results: the gap must be positive, and a gap
    below 1 asks for a *negative* margin. The other two scales are the paper's ablation and a middle way.
    By hand: policy == reference, a gap of 2 and the identity give log(1 + e^2).

    >>> from torch import tensor
    >>> from raypo.methods import Scores
    >>> policy = Pairs(*(Scores.of(tensor([[-1.0]]), score=tensor([s])) for s in (3.0, 1.0)))
    >>> round(odpo(policy, policy, alpha=1.0, scale="identity").mean().item(), 4)
    2.1269
    """
    u_chosen, u_rejected = log_ratios(policy, reference)
    offset = alpha * _scaled(_gap(policy), scale)
    loss = Loss.of(neg_logsigmoid(beta * (u_chosen - u_rejected) - offset))
    metrics = pair_metrics(policy, (beta * u_chosen, beta * u_rejected), reference)
    return loss.with_metrics(**metrics, **{"odpo/offset": metric(offset)})


def _gap(policy: Pairs) -> Tensor:
    if policy.chosen.score is None or policy.rejected.score is None:
        raise MethodError("odpo.policy: needs scores of both completions, got none; use data with a score column")
    return (policy.chosen.score - policy.rejected.score).detach()


def _scaled(gap: Tensor, scale: str) -> Tensor:
    lowest = LOWEST_GAP[scale]
    if not (gap > lowest).all():
        raise MethodError(
            f"odpo.scale: {scale} needs score gaps above {lowest:g}, got {gap.min():g}; drop ties or use identity"
        )
    return gap if scale == "identity" else torch.log(gap) if scale == "log" else torch.log1p(gap)
