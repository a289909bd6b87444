from __future__ import annotations

from typing import Literal

from raypo.methods._annotations import NonNegative, Positive
from raypo.methods._metrics import pair_metrics
from raypo.methods._primitives import log_odds, neg_logsigmoid, nll
from raypo.methods._scores import Loss, Pairs, metric


def asft(
    policy: Pairs,
    *,
    lambda_: NonNegative = 1.0,
    beta: Positive = 1.0,
    nll_weight: NonNegative = 1.0,
    nll_reduction: Literal["token_mean", "sequence_mean"] = "sequence_mean",
) -> Loss:
    """Aligned supervised fine-tuning: ORPO taken apart, each completion judged by its own odds.

        L = nll_weight NLL(chosen) - lambda_ mean of [log sigma(beta o(chosen)) + log sigma(-beta o(rejected))]
        o(y) = log(p / (1 - p)),    p = exp(A(y)),    A(y) = log pi(y) / |y|

    Paper: Wang et al. 2024, ASFT: Aligned Supervised Fine-Tuning through Absolute Likelihood (arXiv 2409.10571).

    One stage: nll_weight = 1, beta = 1, lambda_ tuned; then L = -(1 + lambda_) A(chosen) - lambda_ log(1 - p(rejected))
    with "sequence_mean". Tempered, after a separate SFT: nll_weight = 0, lambda_ = 1, beta tuned ("Differences Between
    Direct Alignment Algorithms are a Blur", which produced the published grid of both forms).
    By hand: p = 1/2 for both gives log 2 + log 2 + log 2.

    >>> from torch import full
    >>> half = full((1, 1), 0.5).log()
    >>> round(asft(Pairs.of(half, half)).mean().item(), 4)
    2.0794
    """
    chosen, rejected = beta * log_odds(policy.chosen.mean()), beta * log_odds(policy.rejected.mean())
    pull, push = neg_logsigmoid(chosen), neg_logsigmoid(-rejected)
    loss = nll_weight * nll(policy.chosen, nll_reduction) + lambda_ * Loss.of(pull + push)
    terms = {"asft/chosen": metric(pull), "asft/rejected": metric(push)}
    return loss.with_metrics(**pair_metrics(policy, (chosen, rejected)), **terms)
