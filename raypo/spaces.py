"""Distributions of a search space: how a study file writes them and what Optuna makes of them.

beta: {log_uniform: [0.01, 1.0]}      lr: {choice: [3e-7, 5e-7]}      steps: {int: [50, 200]}      tau: 0.1 (fixed)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from raypo.errors import nearest

Value = float | int | str | bool
FORMS = ("log_uniform", "uniform", "int", "log_int", "choice")


@dataclass(frozen=True)
class Space:
    """One searched axis: `form` is one of FORMS; `values` is [low, high], or the choices."""

    form: str
    values: tuple[Value, ...]

    def distribution(self) -> BaseDistribution:
        """The Optuna distribution of this axis."""
        if self.form == "choice":
            return CategoricalDistribution(self.values)
        low, high = self.values
        if self.form in ("int", "log_int"):
            return IntDistribution(int(low), int(high), log=self.form == "log_int")
        return FloatDistribution(float(low), float(high), log=self.form == "log_uniform")

    def corners(self) -> tuple[Value, ...]:
        """The extreme values of this axis: both ends, or every choice."""
        return self.values

    def written(self) -> dict[str, list[Value]]:
        """The axis as a study file writes it."""
        return {self.form: list(self.values)}


def is_space(value: object) -> bool:
    """Whether a value of a study file is meant as an axis."""
    return isinstance(value, Space | Mapping)


def parse(value: Any) -> Value | Space:
    """Read one value of a study file as a fixed value or as an axis.

    Raises:
        ValueError: the form is unknown, or the range is empty or impossible.
    """
    if isinstance(value, Space) or not isinstance(value, Mapping):
        return value
    if len(value) != 1:
        raise ValueError(f"an axis has one form, got {list(value)}; write one of {', '.join(FORMS)}")
    form, values = next(iter(value.items()))
    if form not in FORMS:
        raise ValueError(f"unknown form {form!r}; allowed: {', '.join(FORMS)}{nearest(form, FORMS)}")
    if not isinstance(values, list | tuple) or not values:
        raise ValueError(f"{form} needs a non-empty list, got {values!r}")
    if form == "choice":
        return _choice(values)
    return _interval(form, values)


def _choice(values: list[Value] | tuple[Value, ...]) -> Space:
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values) and any(
        isinstance(v, float) for v in values
    ):
        values = [float(v) for v in values]
    if len(set(map(repr, values))) != len(values):
        raise ValueError(f"choice names a value twice, got {list(values)}")
    return Space("choice", tuple(values))


def _interval(form: str, values: list[Value] | tuple[Value, ...]) -> Space:
    if len(values) != 2 or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        raise ValueError(f"{form} needs [low, high] as numbers, got {list(values)}")
    low, high = float(values[0]), float(values[1])
    if not (math.isfinite(low) and math.isfinite(high)) or low >= high:
        raise ValueError(f"{form} needs low < high, both finite, got {list(values)}: the range is empty")
    if form.startswith("log") and low <= 0:
        raise ValueError(f"{form} needs 0 < low, got {list(values)}")
    if form in ("int", "log_int"):
        if not (low.is_integer() and high.is_integer()):
            raise ValueError(f"{form} needs whole numbers, got {list(values)}")
        return Space(form, (int(low), int(high)))
    return Space(form, (low, high))


def corners(axes: Mapping[str, Value | Space], limit: int = 4096) -> Iterator[dict[str, Value]]:
    """Every combination of the axes' extreme values with the fixed values, at most `limit` of them."""
    names = list(axes)
    choices = [space.corners() if isinstance(space, Space) else (space,) for space in axes.values()]
    for point in itertools.islice(itertools.product(*choices), limit):
        yield dict(zip(names, point, strict=True))
