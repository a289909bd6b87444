from __future__ import annotations

from typing import Literal

from raypo.methods._annotations import NonNegative, PerNat
from raypo.methods._metrics import pair_metrics
from raypo.methods._primitives import neg_logsigmoid, nll
from raypo.methods._scores import Loss, Pairs


def cpo(
    policy: Pairs,
    *,
    beta: PerNat = 0.1,
    lambda_: NonNegative = 1.0,
    nll_reduction: Literal["token_mean", "sum"] = "token_mean",
) -> Loss:
    """Contrastive preference optimisation: DPO under a uniform reference, held by a likelihood term.

        L = mean of -log sigma(beta (S(chosen) - S(rejected))) + lambda_ NLL(chosen),    S(y) = log pi(y)

    Paper: Xu et al. 2024, Contrastive Preference Optimization (arXiv 2401.08417), section 3.

    The paper writes the NLL of a sequence ("sum"); all code, the authors' and TRL's, takes the mean over the chosen
    tokens of the batch, which gave the published results. The head of the authors' repository is ARPO, another loss.
    By hand: S = -1 for both and lambda_ = 1 give log 2 + 1.

    >>> from torch import tensor
    >>> round(cpo(Pairs.of(tensor([[-1.0]]), tensor([[-1.0]]))).mean().item(), 4)
    1.6931
    """
    chosen, rejected = beta * policy.chosen.sum(), beta * policy.rejected.sum()
    loss = Loss.of(neg_logsigmoid(chosen - rejected)) + lambda_ * nll(policy.chosen, nll_reduction)
    return loss.with_metrics(**pair_metrics(policy, (chosen, rejected)))
