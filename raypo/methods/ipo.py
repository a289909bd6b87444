from __future__ import annotations

from typing import Literal

from raypo.methods._annotations import PerNat
from raypo.methods._metrics import pair_metrics
from raypo.methods._primitives import log_ratios
from raypo.methods._scores import Loss, Pairs, metric


def ipo(policy: Pairs, reference: Pairs, *, tau: PerNat = 0.1, aggregate: Literal["sum", "mean"]) -> Loss:
    """Identity preference optimisation: regress the margin of log-ratios on a target, so that it cannot run away.

        L = mean of (h - 1 / (2 tau))^2,    h = u(chosen) - u(rejected)    (mean: each u divided by its length)

    Paper: Azar et al. 2023, A General Theoretical Paradigm to Understand Learning from Human Preferences
    (arXiv 2310.12036), eq. 17.

    `aggregate` has no default because the target is 1/(2 tau) nats per sequence for "sum", per token for "mean", so
    their ranges of tau do not carry over. "sum" is the paper's formula; it gave the results of the RPO paper and of
    "Differences Between Direct Alignment Algorithms are a Blur" (best tau 0.001-0.005). "mean" is TRL's since January
    2024 (whose authors report that the IPO authors confirmed it) and gave those of the alignment handbook and, by the
    size of their losses, of studies built on it.
    By hand: at policy == reference h = 0, and tau = 0.1 gives 5^2.

    >>> from torch import tensor
    >>> policy = Pairs.of(tensor([[-1.0]]), tensor([[-4.0]]))
    >>> ipo(policy, policy, tau=0.1, aggregate="sum").mean().item()
    25.0
    """
    u_chosen, u_rejected = log_ratios(policy, reference)
    if aggregate == "mean":
        u_chosen, u_rejected = u_chosen / policy.chosen.lengths, u_rejected / policy.rejected.lengths
    distance = u_chosen - u_rejected - 1 / (2 * tau)
    metrics = pair_metrics(policy, (tau * u_chosen, tau * u_rejected), reference)
    return Loss.of(distance**2).with_metrics(**metrics, **{"ipo/distance": metric(distance)})
