from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor

from raypo.errors import MethodError
from raypo.methods._annotations import Bounds, Carries, PerNat
from raypo.methods._metrics import pair_metrics
from raypo.methods._primitives import log_ratio, neg_logsigmoid
from raypo.methods._scores import Loss, Pairs, Scores

Discount = Annotated[float, Bounds(0, 1, low_open=True)]


def dmpo(
    policy: Annotated[Pairs, Carries("unit")], reference: Pairs, *, beta: PerNat = 0.1, gamma: Discount = 0.7
) -> Loss:
    """Direct multi-turn preference optimisation: early turns of a trajectory weigh more than late ones.

        L = mean of -log sigma(beta h),    h = u(chosen) - u(rejected),    u(y) = sum_t w_t (log pi - log pi_ref)(y_t)
        w = gamma^k (1 - gamma^(K - k)) / (1 - gamma^K) in turn k of K,    (K - k) / K at gamma = 1

    Paper: Shi et al. 2024, Direct Multi-Turn Preference Optimization for Language Agents (arXiv 2406.14868).

    Turns are counted from 0 for each trajectory by itself; only the agent's tokens are scored. A re-implementation in
    the SDPO repository leaves out gamma^k and is another loss. One turn on both sides is DPO.
    By hand: two turns, gamma = 1: weights 1 and 1/2, so u = 1.5 against 0 gives log(1 + e^-1.5).

    >>> from torch import tensor
    >>> turns, zero = tensor([[0, 1]]), tensor([[0.0, 0.0]])
    >>> policy = Pairs(*(Scores.of(tensor([x]), unit=turns) for x in ([-1.0, -1.0], [-2.0, -2.0])))
    >>> reference = Pairs.of(tensor([[-2.0, -2.0]]), tensor([[-2.0, -2.0]]))
    >>> round(dmpo(policy, reference, beta=1.0, gamma=1.0).mean().item(), 4)
    0.2014
    """
    chosen = beta * log_ratio(policy.chosen, reference.chosen, turn_weights(policy.chosen, gamma))
    rejected = beta * log_ratio(policy.rejected, reference.rejected, turn_weights(policy.rejected, gamma))
    loss = Loss.of(neg_logsigmoid(chosen - rejected))
    return loss.with_metrics(**pair_metrics(policy, (chosen, rejected), reference))


def turn_weights(scores: Scores, gamma: float) -> Tensor:
    """[N, T] weight of each token by its turn; 0 off the mask."""
    if scores.unit is None or (scores.mask & (scores.unit < 0)).any():
        raise MethodError("dmpo.policy: needs the turn of every scored token, got tokens without; use multi-turn data")
    turn = torch.where(scores.mask, scores.unit, 0)
    left = (turn.amax(-1, keepdim=True) + 1 - turn).to(scores.logps)
    total = turn.amax(-1, keepdim=True) + 1
    if gamma == 1:
        return left / total
    # 1 - gamma^n as expm1, which stays exact for gamma next to 1.
    return gamma**turn * torch.expm1(left * math.log(gamma)) / torch.expm1(total * math.log(gamma))
