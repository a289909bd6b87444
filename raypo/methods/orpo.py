from __future__ import annotations

from typing import Annotated, Literal

import torch

from raypo.methods._annotations import NonNegative, OnlyIf, Positive
from raypo.methods._metrics import pair_metrics
from raypo.methods._primitives import log_odds, neg_logsigmoid, nll
from raypo.methods._scores import Loss, Pairs, Scores, metric


def orpo(
    policy: Pairs,
    prompt: Annotated[Scores | None, OnlyIf("nll_span", "prompt_and_answer")] = None,
    *,
    lambda_: NonNegative = 0.1,
    beta: Positive = 1.0,
    nll_weight: NonNegative = 1.0,
    nll_reduction: Literal["token_mean", "sequence_mean"] = "token_mean",
    nll_span: Literal["answer", "prompt_and_answer"] = "answer",
) -> Loss:
    """Odds-ratio preference optimisation: likelihood of the chosen plus a logistic loss on the ratio of odds.

        L = nll_weight NLL(chosen) - lambda_ mean of log sigma(beta (o(chosen) - o(rejected)))
        o(y) = log(p / (1 - p)),    p = exp(A(y)),    A(y) = log pi(y) / |y|

    Paper: Hong et al. 2024, ORPO: Monolithic Preference Optimization without Reference Model (arXiv 2403.07691),
    eqs. 6-7.

    One stage: nll_weight = 1, beta = 1, lambda_ tuned (TRL calls lambda_ `beta`, the authors `alpha`). Tempered, after
    a separate SFT: nll_weight = 0, lambda_ = 1, beta tuned ("Differences Between Direct Alignment Algorithms are a
    Blur").

    The paper's NLL is over the chosen answer, the default here. The authors' code, which gave the published
    Mistral-ORPO models, takes the mean over all tokens of prompt and answer: "prompt_and_answer" with "token_mean"; so
    does TRL. Blur's one-stage results are of "answer" with "sequence_mean". The odds never see the prompt. `prompt`
    [B, P]: log-probs of each prompt's tokens before the chosen answer, with gradient; nothing predicts the first one.
    By hand: p = 1/2 for both and one token give log 2 + 0.1 log 2.

    >>> from torch import full
    >>> half = full((1, 1), 0.5).log()
    >>> round(orpo(Pairs.of(half, half)).mean().item(), 4)
    0.7625
    """
    chosen, rejected = beta * log_odds(policy.chosen.mean()), beta * log_odds(policy.rejected.mean())
    odds_ratio = neg_logsigmoid(chosen - rejected)
    likely = policy.chosen
    if nll_span == "prompt_and_answer":
        assert prompt is not None  # Method.loss has seen to it
        likely = _joined(prompt, policy.chosen)
    loss = nll_weight * nll(likely, nll_reduction) + lambda_ * Loss.of(odds_ratio)
    return loss.with_metrics(**pair_metrics(policy, (chosen, rejected)), **{"orpo/odds_ratio": metric(odds_ratio)})


def _joined(prompt: Scores, answer: Scores) -> Scores:
    return Scores(torch.cat([prompt.logps, answer.logps], 1), torch.cat([prompt.mask, answer.mask], 1))
