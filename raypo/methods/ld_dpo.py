from __future__ import annotations

import torch
from torch import Tensor

from raypo.methods._annotations import Fraction, PerNat
from raypo.methods._metrics import pair_metrics
from raypo.methods._primitives import log_ratio, neg_logsigmoid
from raypo.methods._scores import Loss, Pairs, Scores


def ld_dpo(policy: Pairs, reference: Pairs, *, beta: PerNat = 0.1, alpha: Fraction = 0.5) -> Loss:
    """Length-desensitised DPO: tokens beyond the shorter answer's length count only alpha.

        L = mean of -log sigma(beta h),    h = u(chosen) - u(rejected),    u(y) = sum_t w_t (log pi - log pi_ref)(y_t)
        w_t = 1 up to token min(|chosen|, |rejected|) of the completion, then alpha

    Paper: Liu et al. 2024, Length Desensitization in Direct Preference Optimization (arXiv 2409.06411).

    Policy and reference get the same weights, and positions count completion tokens only. There is no official code;
    TRL's `ld_alpha` is the same. alpha = 1 is DPO.
    By hand: u = 1 + 1/2 against 1, beta = 1 give log(1 + e^-0.5).

    >>> from torch import tensor
    >>> policy = Pairs.of(tensor([[-1.0, -1.0]]), tensor([[-1.0]]))
    >>> reference = Pairs.of(tensor([[-2.0, -2.0]]), tensor([[-2.0]]))
    >>> round(ld_dpo(policy, reference, beta=1.0, alpha=0.5).mean().item(), 4)
    0.4741
    """
    shared = torch.minimum(policy.chosen.lengths, policy.rejected.lengths)[:, None]

    def weights(side: Scores) -> Tensor:
        return torch.where(side.mask.cumsum(-1) <= shared, side.logps.new_ones(()), alpha)

    chosen = beta * log_ratio(policy.chosen, reference.chosen, weights(policy.chosen))
    rejected = beta * log_ratio(policy.rejected, reference.rejected, weights(policy.rejected))
    loss = Loss.of(neg_logsigmoid(chosen - rejected))
    return loss.with_metrics(**pair_metrics(policy, (chosen, rejected), reference))
