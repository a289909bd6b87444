from __future__ import annotations

from typing import Annotated

import torch

from raypo.methods._annotations import Bounds, PerNat
from raypo.methods._metrics import pair_metrics
from raypo.methods._primitives import log_ratios, neg_logsigmoid
from raypo.methods._scores import Loss, Pairs, metric


def cdpo(
    policy: Pairs, reference: Pairs, *, beta: PerNat = 0.1, epsilon: Annotated[float, Bounds(0, 0.5)] = 0.1
) -> Loss:
    """Conservative DPO: labels smoothed by the rate epsilon at which they may be wrong, so the margin has an optimum.

        L = mean of -(1 - epsilon) log sigma(beta h) - epsilon log sigma(-beta h)  =  DPO + epsilon beta h

    Paper: Mitchell 2023, A note on DPO with noisy preferences and relationship to IPO.

    Computed in the linear form, exact at any margin. The optimum is beta h = log((1 - epsilon) / epsilon).
    TRL ignores its label smoothing since 0.29, and the code of epsilon-DPO has both terms with the same sign.
    By hand: at that optimum, for epsilon = 0.1, L is the entropy of a (0.9, 0.1) coin.

    >>> from math import log
    >>> from torch import tensor
    >>> policy, reference = Pairs.of(tensor([[log(9)]]), tensor([[0.0]])), Pairs.of(tensor([[0.0]]), tensor([[0.0]]))
    >>> round(cdpo(policy, reference, beta=1.0, epsilon=0.1).mean().item(), 4)
    0.3251
    """
    u_chosen, u_rejected = log_ratios(policy, reference)
    z = beta * (u_chosen - u_rejected)
    metrics = pair_metrics(policy, (beta * u_chosen, beta * u_rejected), reference)
    beyond = {"cdpo/beyond_optimum": metric(torch.sigmoid(-z) < epsilon)}
    return Loss.of(neg_logsigmoid(z) + epsilon * z).with_metrics(**metrics, **beyond)
