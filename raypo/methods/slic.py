from __future__ import annotations

from typing import Literal

import torch

from raypo.methods._annotations import Nats, NonNegative
from raypo.methods._metrics import pair_metrics
from raypo.methods._primitives import nll
from raypo.methods._scores import Loss, Pairs, metric


def slic(
    policy: Pairs,
    *,
    delta: Nats = 1.0,
    lambda_: NonNegative = 0.1,
    sft_reduction: Literal["sum", "token_mean"] = "sum",
) -> Loss:
    """Sequence likelihood calibration: a hinge on the likelihood margin, held by a likelihood term.

        L = mean of max(0, delta - S(chosen) + S(rejected)) + lambda_ NLL(chosen),    S(y) = log pi(y)

    Paper: Zhao et al. 2023, SLiC-HF: Sequence Likelihood Calibration with Human Feedback (arXiv 2305.10425).

    The form without reference that the RPO and SimPO papers compare with; SLiC-HF itself takes the SFT target, not the
    chosen answer, for the NLL. "sum" (NLL = -S) is the published formula and gave the RPO paper's baseline; summed
    likelihoods swamp the hinge at large lambda_, for which "token_mean" exists. TRL's `hinge` is another loss.
    By hand: S = -1 and -1.5, delta = 1, lambda_ = 0.1 give 0.5 + 0.1.

    >>> from torch import tensor
    >>> round(slic(Pairs.of(tensor([[-1.0]]), tensor([[-1.5]]))).mean().item(), 4)
    0.6
    """
    chosen, rejected = policy.chosen.sum(), policy.rejected.sum()
    hinge = torch.relu(delta - chosen + rejected)
    sft = nll(policy.chosen, sft_reduction)
    metrics = pair_metrics(policy, (chosen, rejected))
    metrics |= {"slic/hinge": metric(hinge), "slic/active": metric(hinge > 0), "slic/sft": metric(sft.terms[0].values)}
    return (Loss.of(hinge) + lambda_ * sft).with_metrics(**metrics)
