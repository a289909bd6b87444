from __future__ import annotations

from raypo.methods._annotations import NonNegative, PerNat
from raypo.methods._metrics import pair_metrics
from raypo.methods._primitives import neg_logsigmoid, nll
from raypo.methods._scores import Loss, Pairs


def simpo(
    policy: Pairs, *, beta: PerNat = 2.0, gamma_beta_ratio: NonNegative = 0.5, sft_weight: NonNegative = 0.0
) -> Loss:
    """Simple preference optimisation: mean log-probs as rewards, no reference, a margin to win by.

        L = mean of -log sigma(beta (A(chosen) - A(rejected)) - gamma) + sft_weight NLL(chosen)
        A(y) = log pi(y) / |y|,    gamma = gamma_beta_ratio beta

    Paper: Meng et al. 2024, SimPO: Simple Preference Optimization with a Reference-Free Reward (arXiv 2405.14734),
    eq. 6.

    The ratio is the authors' own parameterisation (TRL's `simpo_gamma` is gamma itself).
    `sft_weight` is in the authors' code, not in the paper; all published results have 0.
    By hand: A(chosen) = A(rejected), beta = 2 and ratio 0.5 give log(1 + e^1).

    >>> from torch import tensor
    >>> policy = Pairs.of(tensor([[-1.0, -2.0]]), tensor([[-1.5]]))
    >>> round(simpo(policy).mean().item(), 4)
    1.3133
    """
    chosen, rejected = beta * policy.chosen.mean(), beta * policy.rejected.mean()
    loss = Loss.of(neg_logsigmoid(chosen - rejected - gamma_beta_ratio * beta)) + sft_weight * nll(policy.chosen)
    return loss.with_metrics(**pair_metrics(policy, (chosen, rejected)))
