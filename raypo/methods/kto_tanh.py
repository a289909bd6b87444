from __future__ import annotations

import torch
from torch import Tensor

from raypo.methods._annotations import NonNegative, PerNat
from raypo.methods._scores import Loss, Unpaired
from raypo.methods.kto import advantages, kto_metrics


def kto_tanh(
    policy: Unpaired,
    reference: Unpaired,
    mismatched: Tensor,
    *,
    beta: PerNat = 0.1,
    lambda_desirable: NonNegative = 1.0,
    lambda_undesirable: NonNegative = 1.0,
) -> Loss:
    """KTO with tanh for the logistic value function: the same objective at twice the beta, times two.

        L = mean of lambda_desirable (1 - tanh(beta (u - z))) or lambda_undesirable (1 - tanh(beta (z - u)))

    Paper: Yin et al. 2024, Relative Preference Optimization (arXiv 2402.10958; a baseline there, given in words).

    1 - tanh(a) = 2 sigma(-2a), so kto_tanh(beta) = 2 kto(2 beta): under Adam, which ignores scale, it *is* KTO at
    2 beta but for gradient clipping. Computed as 2 sigma(-2a); 1 - tanh(10) is exactly 0 in fp32.
    By hand: u = z = 0 gives 1.

    >>> from torch import tensor
    >>> policy = Unpaired.of(tensor([[-1.0]]), None, tensor([True]))
    >>> kto_tanh(policy, policy, tensor([0.0])).mean().item()
    1.0
    """
    advantage, z = advantages(policy, reference, mismatched)
    loss = 2 * torch.sigmoid(-2 * beta * advantage)
    loss = torch.where(policy.desirable, lambda_desirable * loss, lambda_undesirable * loss)
    return Loss.of(loss).with_metrics(**kto_metrics(policy, reference, mismatched, beta, z))
