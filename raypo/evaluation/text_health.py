"""Whether answers are still text: repetition, truncation, and one answer for everything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

NGRAM = 4
REPEATED = 0.5
"""An answer counts as repeated when more than this share of its 4-grams occurred in it before."""


@dataclass(frozen=True)
class TextHealth:
    """Shares of answers, each in [0, 1].

    repeated: more than half of the 4-grams occurred before; truncated: cut off by the limit; empty: no visible
    character; commonest: the share that is one and the same answer.
    """

    repeated: float
    truncated: float
    empty: float
    commonest: float


def text_health(texts: Sequence[str], tokens: Sequence[Sequence[Hashable]], truncated: Sequence[bool]) -> TextHealth:
    """Measure N answers given as text, as tokens and by whether the length limit cut them off."""
    n = len(texts)
    return TextHealth(
        repeated=sum(repetition(row) > REPEATED for row in tokens) / n,
        truncated=sum(truncated) / n,
        empty=sum(not text.strip() for text in texts) / n,
        commonest=Counter(texts).most_common(1)[0][1] / n,
    )


def repetition(tokens: Sequence[Hashable], n: int = NGRAM) -> float:
    """Share of the n-grams of an answer that occurred in it before, in [0, 1); 0 for an answer shorter than n.

    >>> round(repetition("abcdabcda"), 3)
    0.333
    """
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
