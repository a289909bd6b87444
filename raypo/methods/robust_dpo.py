from __future__ import annotations

from typing import Annotated

from raypo.methods._annotations import Bounds, PerNat
from raypo.methods._metrics import pair_metrics
from raypo.methods._primitives import log_ratios, neg_logsigmoid
from raypo.methods._scores import Loss, Pairs

FlipRate = Annotated[float, Bounds(0, 0.5, high_open=True)]


def robust_dpo(policy: Pairs, reference: Pairs, *, beta: PerNat = 0.1, epsilon: FlipRate = 0.1) -> Loss:
    """Robust DPO: an unbiased estimate of the DPO loss when a share epsilon of the labels is flipped.

        L = mean of [-(1 - epsilon) log sigma(beta h) + epsilon log sigma(-beta h)] / (1 - 2 epsilon)
          = DPO - epsilon / (1 - 2 epsilon) beta h

    Paper: Chowdhury et al. 2024, Provably Robust DPO: Aligning Language Models with Noisy Feedback (arXiv 2403.00409).

    The linear term has the sign opposite to cDPO's: the loss is unbounded below and its slope never vanishes, so
    negative values are no error and training wants a small learning rate. TRL's `robust` is the same.
    By hand: h = 4, beta = 1, epsilon = 0.25 give log(1 + exp(-4)) - 4/2.

    >>> from torch import tensor
    >>> policy, reference = Pairs.of(tensor([[-1.0]]), tensor([[-4.0]])), Pairs.of(tensor([[-2.0]]), tensor([[-1.0]]))
    >>> round(robust_dpo(policy, reference, beta=1.0, epsilon=0.25).mean().item(), 4)
    -1.9819
    """
    u_chosen, u_rejected = log_ratios(policy, reference)
    z = beta * (u_chosen - u_rejected)
    metrics = pair_metrics(policy, (beta * u_chosen, beta * u_rejected), reference)
    return Loss.of(neg_logsigmoid(z) - epsilon / (1 - 2 * epsilon) * z).with_metrics(**metrics)
