from __future__ import annotations

from typing import Annotated

from raypo.methods._annotations import Bounds, PerNat, Unit
from raypo.methods._metrics import pair_metrics
from raypo.methods._primitives import log_ratios, neg_logsigmoid
from raypo.methods._scores import Loss, Pairs, metric

PerToken = Annotated[float, Bounds(0), Unit("1/token")]


def r_dpo(policy: Pairs, reference: Pairs, *, beta: PerNat = 0.1, alpha: PerToken = 0.01) -> Loss:
    """Length-regularised DPO: a winner that is longer by some tokens already has that much credit.

        L = mean of -log sigma(beta h + alpha (|chosen| - |rejected|))

    Paper: Park et al. 2024, Disentangling Length from Quality in Direct Preference Optimization (arXiv 2403.19159).

    The plus sign follows from maximising E[r - alpha |y|] - beta KL; one reprint of SimPO's table has a minus, which
    would reward length. alpha counts per token: 0.05 times 200 tokens saturates the sigmoid.
    By hand: policy == reference, 2 tokens against 1 and alpha = 1 give log(1 + e^-1).

    >>> from torch import tensor
    >>> policy = Pairs.of(tensor([[-1.0, -1.0]]), tensor([[-1.0]]))
    >>> round(r_dpo(policy, policy, alpha=1.0).mean().item(), 4)
    0.3133
    """
    u_chosen, u_rejected = log_ratios(policy, reference)
    length_term = alpha * (policy.chosen.lengths - policy.rejected.lengths)
    loss = Loss.of(neg_logsigmoid(beta * (u_chosen - u_rejected) + length_term))
    metrics = pair_metrics(policy, (beta * u_chosen, beta * u_rejected), reference)
    return loss.with_metrics(**metrics, **{"r_dpo/length_term": metric(length_term)})
