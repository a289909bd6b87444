from __future__ import annotations

from raypo.methods._annotations import PerNat
from raypo.methods._metrics import pair_metrics
from raypo.methods._primitives import log_ratios, neg_logsigmoid
from raypo.methods._scores import Loss, Pairs


def dpo(policy: Pairs, reference: Pairs, *, beta: PerNat = 0.1) -> Loss:
    """Direct preference optimisation: a logistic loss on the margin of log-ratios to the reference.

        L = mean of -log sigma(beta h),    h = u(chosen) - u(rejected),    u(y) = log pi(y) - log pi_ref(y)

    Paper: Rafailov et al. 2023, Direct Preference Optimization (arXiv 2305.18290), eq. 7.

    Sums over tokens, never means. The slope is dL/dh = -beta sigma(-beta h).
    By hand: h = (-1 + 2) - (-4 + 2) = 3 and beta = 1 give log(1 + exp(-3)).

    >>> from torch import tensor
    >>> policy, reference = Pairs.of(tensor([[-1.0]]), tensor([[-4.0]])), Pairs.of(tensor([[-2.0]]), tensor([[-2.0]]))
    >>> round(dpo(policy, reference, beta=1.0).mean().item(), 4)
    0.0486
    """
    u_chosen, u_rejected = log_ratios(policy, reference)
    loss = Loss.of(neg_logsigmoid(beta * (u_chosen - u_rejected)))
    return loss.with_metrics(**pair_metrics(policy, (beta * u_chosen, beta * u_rejected), reference))
