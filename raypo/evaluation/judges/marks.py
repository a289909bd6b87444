"""Marks: what a judge gives for one answer, or for two answers in one order, before verdicts are made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from raypo.data.records import Text
from raypo.evaluation.judges.cache import MarkCache, content_key


@dataclass(frozen=True)
class Answer:
    """One answer to be rated."""

    prompt: Text
    text: str


@dataclass(frozen=True)
class Question:
    """Two answers to be compared, in the order in which the judge sees them."""

    prompt: Text
    first: str
    second: str


@dataclass(frozen=True)
class Mark:
    """A rating of an answer, or the probability that the first of two is better; nan with the reason of a failure.

    unanswered: whether it failed for want of an answer, which may come when the question is asked again.
    """

    value: float
    failure: str | None = None
    unanswered: bool = False


class Rater(Protocol):
    """Rates answers one at a time; higher is better."""

    @property
    def name(self) -> str: ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that a mark depends on besides the texts, json-able: model, revision, template, decoding."""
        ...

    def rate(self, answers: Sequence[Answer]) -> Iterable[Mark]: ...


class Comparer(Protocol):
    """Compares two answers in the order given."""

    @property
    def name(self) -> str: ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that a mark depends on besides the texts, json-able: model, revision, template, decoding."""
        ...

    def compare(self, questions: Sequence[Question]) -> Iterable[Mark]: ...


Item = TypeVar("Item", Answer, Question)


def ask(
    items: Sequence[Item],
    answer: Callable[[Sequence[Item]], Iterable[Mark]],
    identity: Mapping[str, Any],
    cache: MarkCache | None,
) -> list[Mark]:
    """A mark for each item: equal items are asked once, and what the cache knows is not asked at all.

    Marks are stored as they arrive, so that an interrupted evaluation has paid for nothing twice; failures are not
    stored, so that a later evaluation tries again.
    """
    keys = [content_key(identity, item) for item in items]
    by_key = dict(zip(keys, items, strict=True))
    known = {} if cache is None else {key: Mark(value) for key, value in cache.look_up(by_key).items()}
    unknown = [key for key in by_key if key not in known]
    marks = answer([by_key[key] for key in unknown]) if unknown else ()
    for key, mark in zip(unknown, marks, strict=True):
        known[key] = mark
        if cache is not None and mark.failure is None:
            cache.put(key, mark.value)
    return [known[key] for key in keys]
