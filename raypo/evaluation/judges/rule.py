"""A judge that is a Python function: deterministic, free, and only as wise as its rule."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raypo.data.records import Text
from raypo.errors import JudgeError
from raypo.evaluation.judges.marks import Answer, Mark
from raypo.evaluation.judges.verdicts import RatingJudge, win_tie_loss

Quality = Callable[[Text, str], float]


def rule(function: Quality | str) -> RatingJudge:
    """A judge by `quality(prompt, answer) -> float`: the answer of higher quality wins, equal qualities tie.

    `function` is the callable or its import path "package.module:function"; a path runs that module's code.
    """
    return RatingJudge(_Rule(imported(function) if isinstance(function, str) else function), win_tie_loss)


def imported(path: str) -> Quality:
    """The callable at "package.module:function"; raises JudgeError where there is none."""
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise JudgeError(f"judge rule: no function at {path!r} ({error}); write package.module:function") from error
    if not callable(found):
        raise JudgeError(f"judge rule: {path!r} is a {type(found).__name__}; name a function of (prompt, answer)")
    return found


@dataclass(frozen=True)
class _Rule:
    function: Quality

    @property
    def name(self) -> str:
        return f"rule:{self.function.__module__}.{self.function.__qualname__}"

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"judge": self.name}

    def rate(self, answers: Sequence[Answer]) -> Iterable[Mark]:
        for answer in answers:
            value = float(self.function(answer.prompt, answer.text))
            yield Mark(value, "the rule's quality is not a number" if math.isnan(value) else None)
