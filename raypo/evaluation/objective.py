"""One evaluation of a configuration: answers, verdicts and log-probs become one flat result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from raypo.evaluation.judges import Verdict
from raypo.evaluation.kl import Divergence
from raypo.evaluation.length_control import length_controlled
from raypo.evaluation.sampling import Completion
from raypo.evaluation.text_health import text_health
from raypo.evaluation.win_rate import Estimate, estimate


@dataclass(frozen=True)
class Opponent:
    """What the answers are compared with: a name for the tables, one text and its length in tokens for each prompt."""

    name: str
    texts: Sequence[str]
    lengths: Sequence[int]


@dataclass(frozen=True)
class Evaluation:
    """A win rate and what surrounds it.

    controlled: the length-controlled win rate; score: mean of the judge's own marks, nan where it gives none; kl and
    kl_k3: nats per answer; length: tokens per answer, end of turn included; length_ratio: over the opponent's mean
    length; repeated, truncated, empty, commonest: shares of answers, the last of the one answer given most often.
    """

    estimate: Estimate
    controlled: Estimate
    score: float
    kl: float
    kl_k3: float
    length: float
    length_ratio: float
    repeated: float
    truncated: float
    empty: float
    commonest: float

    def flat(self) -> dict[str, float | int | str]:
        """One level of names, without nans: the estimate's as they are, the controlled one's with `lc_` before them."""
        own = asdict(self)
        raw, controlled = own.pop("estimate"), own.pop("controlled")
        kept = ("win_rate", "ci_low", "ci_high", "standard_error")
        everything = raw | {f"lc_{name}": controlled[name] for name in kept} | own
        return {name: value for name, value in everything.items() if value == value}


@dataclass(frozen=True)
class Limits:
    """Beyond which an evaluation counts as diverged; KL in nats per answer, the rest as shares of answers."""

    kl: float = math.inf
    length_ratio: float = math.inf
    repeated: float = 0.9
    empty: float = 0.9
    commonest: float = 0.9


def evaluate(
    completions: Sequence[Completion],
    opponent: Opponent,
    verdicts: Sequence[Verdict | None],
    drift: Divergence,
    *,
    judge: str,
) -> Evaluation:
    """Put N answers, the opponent's, their verdicts and how far the policy moved on them together.

    An answer whose verdict is None was not judged: it counts for the figures of the text, and for no win rate.
    """
    judged = [i for i, verdict in enumerate(verdicts) if verdict is not None]
    given = [verdict for verdict in verdicts if verdict is not None]
    scores = [verdict.score for verdict in given]
    lengths = [len(completion.tokens) for completion in completions]
    compared = [lengths[i] for i in judged], [opponent.lengths[i] for i in judged]
    health = text_health(
        [c.text for c in completions], [c.tokens for c in completions], [c.truncated for c in completions]
    )
    marks = [verdict.ratings[0] for verdict in given if verdict.ratings]
    controlled = length_controlled(scores, *compared, judge=judge, opponent=opponent.name)
    return Evaluation(
        estimate=estimate(scores, judge=judge, opponent=opponent.name),
        controlled=controlled.estimate,
        score=float(np.nanmean(marks)) if marks else math.nan,
        kl=drift.k1,
        kl_k3=drift.k3,
        length=float(np.mean(lengths)),
        length_ratio=float(np.mean(lengths)) / max(float(np.mean(opponent.lengths)), 1e-9),
        **asdict(health),
    )


def diverged(evaluation: Evaluation, limits: Limits) -> str | None:
    """Why this configuration is lost, or None: too far from the reference, or its answers are no text any more."""
    for name, what in (
        ("kl", "KL to the reference, nats per answer"),
        ("length_ratio", "length over the opponent's"),
        ("repeated", "share of answers that repeat themselves"),
        ("empty", "share of empty answers"),
        ("commonest", "share of one and the same answer"),
    ):
        value, limit = getattr(evaluation, name), getattr(limits, name)
        if not value <= limit:
            return f"{name}: {what} is {value:.3g}, the limit is {limit:g}"
    return None
