"""Verdicts from marks: both orders, one half for identical answers, and a limit on failures.

A judge either rates one answer at a time (`RatingJudge`) or compares two (`PairJudge`). Ratings are asked once for
each answer, so an opponent's answers are rated once in a whole search.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from raypo.errors import JudgeError, JudgeUnavailable
from raypo.evaluation.judges import Comparison, Verdict
from raypo.evaluation.judges.cache import MarkCache
from raypo.evaluation.judges.marks import Answer, Comparer, Mark, Question, Rater, ask

MAX_FAILED = 0.05
"""Share of comparisons that may stay without a verdict before an evaluation fails."""


@dataclass(frozen=True)
class RatingJudge:
    """Verdicts from two ratings: `preference(answer's, opponent's)` is the score."""

    rater: Rater
    preference: Callable[[float, float], float]
    cache: MarkCache | None = None
    max_failed: float = MAX_FAILED

    @property
    def name(self) -> str:
        return self.rater.name

    def judge(self, items: Sequence[Comparison]) -> list[Verdict]:
        return checked(self.verdicts(items), self.name, self.max_failed)

    def verdicts(self, items: Sequence[Comparison]) -> list[Verdict]:
        answers = [Answer(c.prompt, text) for c in items for text in (c.answer, c.opponent)]
        marks = ask(answers, self.rater.rate, self.rater.identity, self.cache)
        pairs = zip(items, marks[::2], marks[1::2], strict=True)
        return [self._verdict(item, own, other) for item, own, other in pairs]

    def _verdict(self, item: Comparison, own: Mark, other: Mark) -> Verdict:
        ratings = (own.value, other.value)
        if item.answer == item.opponent:
            return Verdict(0.5, ratings=ratings)
        failed = _failed(own, other)
        score = math.nan if failed.failure else self.preference(*ratings)
        return Verdict(score, ratings=ratings, failure=failed.failure, unanswered=failed.unanswered)


@dataclass(frozen=True)
class PairJudge:
    """Verdicts from one comparison in each order; the score is the mean of the two."""

    comparer: Comparer
    cache: MarkCache | None = None
    max_failed: float = MAX_FAILED

    @property
    def name(self) -> str:
        return self.comparer.name

    def judge(self, items: Sequence[Comparison]) -> list[Verdict]:
        return checked(self.verdicts(items), self.name, self.max_failed)

    def verdicts(self, items: Sequence[Comparison]) -> list[Verdict]:
        asked = [c for c in items if c.answer != c.opponent]
        questions = [q for c in asked for q in (_question(c), _swapped(c))]
        marks = iter(ask(questions, self.comparer.compare, self.comparer.identity, self.cache))
        return [Verdict(0.5) if c.answer == c.opponent else _both_orders(next(marks), next(marks)) for c in items]


def win_tie_loss(own: float, other: float, tie: float = 0.0) -> float:
    """1, 0.5 or 0 from two ratings; ratings within `tie` of each other draw."""
    return 0.5 if abs(own - other) <= tie else float(own > other)


def logistic(own: float, other: float) -> float:
    """Bradley-Terry probability that the first of two rewards wins.

    >>> round(logistic(1.0, 0.0), 4)
    0.7311
    """
    return 0.5 * (1 + math.tanh((own - other) / 2))


def checked(verdicts: list[Verdict], name: str, max_failed: float, of: int | None = None) -> list[Verdict]:
    """The verdicts, unless more than the share `max_failed` has none: then JudgeError with the commonest reason.

    It is JudgeUnavailable where those without an answer make the difference. `of` is how many comparisons there are in
    all, where these verdicts are the first of them.
    """
    failures = [v for v in verdicts if not v.parsed]
    unreadable = [v for v in failures if not v.unanswered]
    limit = max_failed * (of or len(verdicts))
    if len(failures) > limit:
        judges_fault = len(unreadable) <= limit
        blamed = [v for v in failures if v.unanswered] if judges_fault else failures
        reason, times = Counter(v.failure for v in blamed).most_common(1)[0]
        raise (JudgeUnavailable if judges_fault else JudgeError)(
            f"judge {name}: no verdict on {len(failures)} of {of or len(verdicts)} comparisons, at most "
            f"{max_failed:.0%} may fail; {times} of them: {reason}"
        )
    return verdicts


def _question(item: Comparison) -> Question:
    return Question(item.prompt, item.answer, item.opponent)


def _swapped(item: Comparison) -> Question:
    return Question(item.prompt, item.opponent, item.answer)


def _both_orders(shown_first: Mark, shown_second: Mark) -> Verdict:
    orders = (shown_first.value, 1 - shown_second.value)
    failed = _failed(shown_first, shown_second)
    # One readable order is no verdict: judges favour a place, and only both orders cancel that.
    score = math.nan if failed.failure else sum(orders) / 2
    return Verdict(score, orders=orders, failure=failed.failure, unanswered=failed.unanswered)


def _failed(one: Mark, other: Mark) -> Mark:
    """The mark by which a verdict fails, one that was answered before one that was not; either where none did."""
    return min(one, other, key=lambda mark: (mark.failure is None, mark.unanswered))
