"""Judges: which of two answers to a prompt is better.

Every judge answers for both orders of the two answers, scores in [0, 1], counts what it could not read, and gives
identical answers one half without looking. One judge serves a whole study and its name stands beside every win rate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from raypo.data.records import Text


@dataclass(frozen=True)
class Comparison:
    """An answer of the configuration under test beside its opponent's, to one prompt."""

    prompt: Text
    answer: str
    opponent: str


@dataclass(frozen=True)
class Verdict:
    """What a judge says of a comparison.

    score: share in [0, 1] that goes to `answer` (1 win, 0.5 tie), nan where the judge failed; orders: the same score
    with the answer shown first and shown second, for judges that read both answers at once; ratings: the answer's and
    the opponent's own mark, for judges that read one at a time; failure: why there is no score; unanswered: whether
    there may be one when the judge is asked again.
    """

    score: float
    orders: tuple[float, ...] = ()
    ratings: tuple[float, ...] = ()
    failure: str | None = None
    unanswered: bool = False

    @property
    def parsed(self) -> bool:
        return not math.isnan(self.score)


class Judge(Protocol):
    """Gives a verdict for each comparison; raises JudgeError when more than a stated share fails.

    That is a JudgeUnavailable where what fails was not answered.
    """

    @property
    def name(self) -> str:
        """Kind, model and revision: what stands beside the win rate."""
        ...

    @property
    def max_failed(self) -> float:
        """Share of comparisons that may stay without a score."""
        ...

    def judge(self, items: Sequence[Comparison]) -> list[Verdict]:
        """One verdict for each item, in order."""
        ...

    def verdicts(self, items: Sequence[Comparison]) -> list[Verdict]:
        """The same for a part of the comparisons, however many of them fail."""
        ...
