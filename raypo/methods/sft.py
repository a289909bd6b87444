from __future__ import annotations

from raypo.methods._metrics import completion_metrics
from raypo.methods._primitives import nll
from raypo.methods._scores import Loss, Scores


def sft(policy: Scores) -> Loss:
    """Supervised fine-tuning on chosen completions: the mean negative log-likelihood of a token.

        L = -(sum of log pi(y_t) over all completion tokens of the step) / (their number)

    Paper: Ouyang et al. 2022, Training language models to follow instructions with human feedback (arXiv 2203.02155).

    The denominator is counted over micro-batches and ranks, so long answers weigh as much as their tokens.
    By hand: three tokens at probability 1/4 give log 4.

    >>> from torch import full
    >>> round(sft(Scores.of(full((1, 3), 0.25).log())).mean().item(), 4)
    1.3863
    """
    return nll(policy).with_metrics(**completion_metrics(policy))
