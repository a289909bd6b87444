"""The words a method's signature is written in: bounds and units of hyperparameters, conditions on inputs.

`beta: PerNat = 0.1` reads "a positive number per nat, 0.1 unless told". Nothing here is specific to one method.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Annotated


@dataclass(frozen=True)
class Bounds:
    """The interval a number must lie in; an open end excludes its own value."""

    low: float = -inf
    high: float = inf
    low_open: bool = False
    high_open: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        return above and below and abs(value) != inf

    def __str__(self) -> str:
        left = "(" if self.low_open or self.low == -inf else "["
        right = ")" if self.high_open or self.high == inf else "]"
        return f"{left}{self.low:g}, {self.high:g}{right}"


@dataclass(frozen=True)
class Unit:
    """What a number counts: nats, tokens, optimizer steps."""

    name: str


Positive = Annotated[float, Bounds(0, low_open=True)]
NonNegative = Annotated[float, Bounds(0)]
Fraction = Annotated[float, Bounds(0, 1)]
ProperFraction = Annotated[float, Bounds(0, 1, low_open=True, high_open=True)]
PerNat = Annotated[float, Bounds(0, low_open=True), Unit("1/nat")]
"""A temperature: what it multiplies is in nats, the product is a bare logit."""
Nats = Annotated[float, Bounds(0), Unit("nats")]
Steps = Annotated[int, Bounds(1), Unit("optimizer steps")]


@dataclass(frozen=True)
class OnlyIf:
    """Marks an input that a method needs only while one hyperparameter has one value."""

    hyperparameter: str
    value: str | bool


@dataclass(frozen=True)
class Carries:
    """What the data of a method must carry beside log-probs.

    `field` is "score" or "unit" (see `Scores`); `candidates` is the smallest number of completions per prompt
    with which the method differs from a pairwise one.
    """

    field: str
    candidates: int = 0


@dataclass(frozen=True)
class GapAbove:
    """Marks pairs of which a method takes only those with scores far enough apart.

    The chosen answer's score minus the rejected one's must lie above the limit of one hyperparameter's value.
    """

    hyperparameter: str
    limits: Mapping[str, float]
