from __future__ import annotations

import torch
from torch import Tensor

from raypo.errors import MethodError
from raypo.methods._annotations import NonNegative, PerNat
from raypo.methods._metrics import unpaired_metrics
from raypo.methods._primitives import log_ratio
from raypo.methods._scores import Loss, Metric, Unpaired, metric


def kto(
    policy: Unpaired,
    reference: Unpaired,
    mismatched: Tensor,
    *,
    beta: PerNat = 0.1,
    lambda_desirable: NonNegative = 1.0,
    lambda_undesirable: NonNegative = 1.0,
) -> Loss:
    """Kahneman-Tversky optimisation: each completion alone is a gain or a loss against the policy's average drift z.

        L = mean of lambda_desirable sigma(-beta (u - z)) or lambda_undesirable sigma(-beta (z - u)),
        u = log pi(y) - log pi_ref(y),    z = max(0, mean of u over other prompts' answers), no gradient

    Paper: Ethayarajh et al. 2024, KTO: Model Alignment as Prospect Theoretic Optimization (arXiv 2402.01306), eq. 8.

    The mean is over all examples, not per class; z is in nats, from the micro-batch over all ranks, clamped once. That
    is the authors' present code and TRL. Their early code, and the RPO paper's, lost the all-reduce of z and so ran
    with z / ranks. Balance: (lambda_desirable n_desirable) / (lambda_undesirable n_undesirable) in [1, 4/3].
    By hand: u = log 3, z = 0 and beta = 1 give sigma(-log 3) = 1/4.

    >>> from math import log
    >>> from torch import tensor
    >>> policy = Unpaired.of(tensor([[log(0.3)]]), None, tensor([True]))
    >>> reference = Unpaired.of(tensor([[log(0.1)]]), None, tensor([True]))
    >>> round(kto(policy, reference, tensor([0.0]), beta=1.0).mean().item(), 4)
    0.25
    """
    advantage, z = advantages(policy, reference, mismatched)
    loss = torch.sigmoid(-beta * advantage)
    loss = torch.where(policy.desirable, lambda_desirable * loss, lambda_undesirable * loss)
    return Loss.of(loss).with_metrics(**kto_metrics(policy, reference, mismatched, beta, z))


def advantages(policy: Unpaired, reference: Unpaired, mismatched: Tensor) -> tuple[Tensor, Tensor]:
    """[N] u - z of desirable and z - u of undesirable completions, and 0-d z."""
    if not len(mismatched):
        raise MethodError("kto.mismatched: needs another prompt's answer, got none; use a batch of 2 or more")
    z = mismatched.detach().mean().clamp(min=0)
    u = log_ratio(policy.scores, reference.scores)
    return torch.where(policy.desirable, u - z, z - u), z


def kto_metrics(policy: Unpaired, reference: Unpaired, mismatched: Tensor, beta: float, z: Tensor) -> dict[str, Metric]:
    """Metrics of labelled completions, accurate on their side of z, with z itself and the mean it was clamped from."""
    rewards = beta * log_ratio(policy.scores, reference.scores)
    return unpaired_metrics(policy, rewards, reference, beta * z) | {
        "kto/z": metric(z[None]),
        "kl/mismatched": metric(mismatched),
    }
