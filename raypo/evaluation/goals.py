"""What a search maximises: one metric of an evaluation, or several at once with the front of those that none beats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raypo.evaluation.metrics import METRICS, Metric


def metric_of(goal: str) -> Metric:
    """The metric that a goal is of; a minus before its name says to minimise it."""
    return METRICS[goal.removeprefix("-")]


def as_measured(value: float, goal: str) -> float:
    """A goal's value, larger is better, as its metric was measured.

    >>> as_measured(-12.0, "-kl")
    12.0
    """
    return -value if goal.startswith("-") else value


def value_of(figures: Mapping[str, Any], goal: str) -> float | None:
    """A metric of an evaluation, larger is better: the negative of one with a minus before its name.

    >>> value_of({"win_rate": 0.6, "kl": 12.0}, "-kl")
    -12.0
    """
    found = figures.get(metric_of(goal).key)
    return None if found is None else as_measured(float(found), goal)


def beats(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether the first point is as good as the second in everything, and better in something; larger is better.

    >>> beats((0.6, -3.0), (0.5, -3.0)), beats((0.6, -9.0), (0.5, -3.0))
    (True, False)
    """
    return tuple(one) != tuple(other) and all(a >= b for a, b in zip(one, other, strict=True))


def front(points: Sequence[Sequence[float]]) -> list[int]:
    """Numbers of the points that no other beats, in their order."""
    return [i for i, point in enumerate(points) if not any(beats(other, point) for other in points)]
