"""Formats that a user's own files may have."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, TypeVar

from raypo.data.records import (
    Demonstration,
    Labelled,
    Message,
    Pair,
    Ranking,
    Record,
    Text,
    as_messages,
    common_prefix,
    is_blank,
    word_boundary,
)
from raypo.data.rows import Blank, Dropped, Row, as_text
from raypo.errors import DataError

Made = TypeVar("Made", bound=Record)
Empty = Literal["refuse", "drop"]


def pairs(rows: Iterable[Row], *, empty: Empty = "refuse") -> Iterator[Pair | Dropped]:
    """A better and a worse answer; the prompt is a column of its own or what both answers begin with."""
    return _each(rows, pair, empty)


def stepwise(rows: Iterable[Row], *, turns: bool = False, empty: Empty = "refuse") -> Iterator[Pair | Dropped]:
    """A right and a wrong next step after the same steps; nothing ends after a step, so no end token follows.

    `turns` makes a question that is plain text the user's turn and the steps the assistant's, for chat templates.
    """
    return _each(rows, lambda row: _step(row, turns), empty)


def unpaired(rows: Iterable[Row], *, empty: Empty = "refuse") -> Iterator[Labelled | Dropped]:
    """An answer and whether it is good."""
    return _each(rows, _labelled, empty)


def ranked(rows: Iterable[Row], *, empty: Empty = "refuse") -> Iterator[Ranking | Dropped]:
    """Several answers to a prompt with a score each."""
    return _each(rows, _listed, empty)


def completions(rows: Iterable[Row], *, empty: Empty = "refuse") -> Iterator[Demonstration | Dropped]:
    """Answers to imitate."""
    return _each(rows, _demonstrated, empty)


def ranked_rows(rows: Iterable[Row], *, empty: Empty = "refuse") -> Iterator[Ranking | Dropped]:
    """One scored answer a row; rows of one prompt, wherever they stand, make one list, those alone are dropped."""
    lists: dict[str, list[Demonstration]] = {}
    for made in _each(rows, _demonstrated, empty):
        if isinstance(made, Dropped):
            yield made
        else:
            lists.setdefault(repr(made.prompt), []).append(made)
    for members in lists.values():
        first, models = members[0], tuple(member.model for member in members)
        if len(members) < 2:
            yield Dropped("one_answer")
            continue
        answers = [member.completion for member in members]
        scores = [member.score for member in members]
        yield ranking(first.source, first.prompt, answers, scores, models if any(models) else ())


def _each(rows: Iterable[Row], make: Callable[[Row], Made], empty: Empty) -> Iterator[Made | Dropped]:
    for row in rows:
        try:
            made: Made | Dropped = make(row)
        except Blank:
            if empty == "refuse":
                raise
            made = Dropped("empty_answer")
        yield made


def pair(row: Row) -> Pair:
    """One pair; conversations that begin alike are cut where they part, and what they share ends the prompt."""
    prompt, chosen, rejected = _parted(row, row.text("chosen"), row.text("rejected"))
    return Pair(
        prompt,
        chosen,
        rejected,
        chosen_score=row.number("chosen_score", "score_chosen"),
        rejected_score=row.number("rejected_score", "score_rejected"),
        chosen_model=row.string("chosen_model", "source_model"),
        rejected_model=row.string("rejected_model", "source_model"),
        source=row.where,
    )


def _parted(row: Row, chosen: Text, rejected: Text) -> tuple[Text, Text, Text]:
    if not isinstance(chosen, str) and not isinstance(rejected, str):
        shared = min(common_prefix(chosen, rejected), len(chosen) - 1, len(rejected) - 1)
        if shared:
            return _prompt_of(row, chosen[:shared]), chosen[shared:], rejected[shared:]
    if row.get("prompt") is not None:
        return row.text("prompt"), chosen, rejected
    if isinstance(chosen, str) and isinstance(rejected, str):
        shared = word_boundary(chosen, common_prefix(chosen, rejected))
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
        if not is_blank(prompt) and not is_blank(chosen) and not is_blank(rejected):
            return prompt, chosen, rejected
    raise DataError(
        f"{row.where}: no prompt column, and chosen and rejected do not begin alike; map data.columns.prompt"
    )


def _prompt_of(row: Row, shared: tuple[Message, ...]) -> Text:
    """What both answers begin with, after the prompt column where that is not repeated in it."""
    column = row.get("prompt")
    asked = () if column is None else as_text(column, row.where)
    if isinstance(asked, str):
        # A plain question is spelled in many ways; answers with a turn of the user's hold it in one of them.
        repeated = is_blank(asked) or any(message["role"] == "user" for message in shared)
    else:
        repeated = _said(shared)[: len(_said(asked))] == _said(asked)
    return shared if repeated else (*as_messages(asked), *shared)


def _said(turns: tuple[Message, ...]) -> list[tuple[str, str]]:
    """Who says what, system turns apart: answers leave them out, or have them alone."""
    return [(turn["role"], str(turn["content"]).strip()) for turn in turns if turn["role"] != "system"]


def _step(row: Row, turns: bool) -> Pair:
    steps = row.get("prefix", "initial_reason_steps") or ""
    prefix = steps if isinstance(steps, str) else "".join(f"{step}\n" for step in steps)
    question = row.text("prompt")
    if turns:
        question = as_messages(question)
    return Pair(
        question + prefix if isinstance(question, str) else _begun(question, prefix),
        row.text("chosen"),
        row.text("rejected"),
        final=False,
        source=row.where,
    )


def _begun(question: tuple[Any, ...], prefix: str) -> Text:
    return (*question, {"role": "assistant", "content": prefix}) if prefix else question


def _labelled(row: Row) -> Labelled:
    prompt, completion = _answered(row)
    score, model = row.number("score"), row.string("source_model")
    return Labelled(prompt, completion, _label(row), score=score, model=model, source=row.where)


def _demonstrated(row: Row) -> Demonstration:
    prompt, completion = _answered(row)
    score, model = row.number("score"), row.string("source_model")
    return Demonstration(prompt, completion, score=score, model=model, source=row.where)


def _label(row: Row) -> bool:
    value = row.get("label")
    spelled = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False, "-1": False}
    label = spelled.get(str(value).strip().lower())
    if label is None:
        raise DataError(
            f"{row.where}: label must say whether the answer is good, got {value!r}; allowed: true, false, 1, 0"
        )
    return label


def _answered(row: Row) -> tuple[Text, Text]:
    if row.get("completion") is not None or row.get("messages") is None:
        return row.text("prompt"), row.text("completion")
    said = row.text("messages")
    if isinstance(said, str) or len(said) < 2 or said[-1]["role"] != "assistant":
        raise DataError(f"{row.where}: messages must end with the assistant's answer to somebody; got {said!r:.120}")
    if is_blank(said[-1:]):
        raise Blank(f"{row.where}: the last message is empty")
    return said[:-1], said[-1:]


def _listed(row: Row) -> Ranking:
    answers, scores = row.items("completions"), row.items("scores")
    if len(answers) != len(scores):
        raise DataError(f"{row.where}: {len(answers)} completions but {len(scores)} scores")
    models = row.items("models") if row.get("models") else []
    if models and len(models) != len(answers):
        raise DataError(f"{row.where}: {len(answers)} completions but {len(models)} models")
    return ranking(row.where, row.text("prompt"), answers, scores, models)


def ranking(
    where: str, prompt: Text, answers: Iterable[Any], scores: Iterable[Any], models: Iterable[Any] = ()
) -> Ranking:
    """One ranked list, checked."""
    texts = tuple(as_text(answer, where) for answer in answers)
    blank = [i for i, text in enumerate(texts) if is_blank(text)]
    if blank:
        raise Blank(f"{where}: completion {blank[0] + 1} of {len(texts)} is empty")
    try:
        numbers = tuple(float(score) for score in scores)
    except (TypeError, ValueError):
        raise DataError(f"{where}: scores must be numbers, got {scores!r:.120}") from None
    if len(texts) < 2 or not all(map(math.isfinite, numbers)):
        raise DataError(f"{where}: a ranked list needs two answers or more with finite scores, got {numbers}")
    return Ranking(prompt, texts, numbers, models=tuple(map(str, models)), source=where)
