"""Formats that a user's own files may have."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

from raypo.data.records import Demonstration, Labelled, Pair, Ranking, Text, common_prefix, is_blank, word_boundary
from raypo.data.rows import Row, as_text
from raypo.errors import DataError


def pairs(rows: Iterable[Row]) -> Iterator[Pair]:
    """A better and a worse answer; the prompt is a column of its own or what both answers begin with."""
    for row in rows:
        yield pair(row)


def pair(row: Row) -> Pair:
    """One pair; conversations that begin alike are cut where they part, whatever the prompt column says."""
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
            return chosen[:shared], chosen[shared:], rejected[shared:]
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


def stepwise(rows: Iterable[Row]) -> Iterator[Pair]:
    """A right and a wrong next step after the same steps; nothing ends after a step, so no end token follows."""
    for row in rows:
        steps = row.get("prefix", "initial_reason_steps") or ""
        prefix = steps if isinstance(steps, str) else "".join(f"{step}\n" for step in steps)
        question = row.text("prompt")
        yield Pair(
            question + prefix if isinstance(question, str) else _begun(question, prefix),
            row.text("chosen"),
            row.text("rejected"),
            final=False,
            source=row.where,
        )


def _begun(question: tuple[Any, ...], prefix: str) -> Text:
    return (*question, {"role": "assistant", "content": prefix}) if prefix else question


def unpaired(rows: Iterable[Row]) -> Iterator[Labelled]:
    """An answer and whether it is good."""
    for row in rows:
        prompt, completion = _answered(row)
        yield Labelled(
            prompt,
            completion,
            _label(row),
            score=row.number("score"),
            model=row.string("source_model"),
            source=row.where,
        )


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
    if isinstance(said, str) or len(said) < 2 or said[-1]["role"] != "assistant" or is_blank(said[-1:]):
        raise DataError(f"{row.where}: messages must end with the assistant's answer to somebody; got {said!r:.120}")
    return said[:-1], said[-1:]


def ranked(rows: Iterable[Row]) -> Iterator[Ranking]:
    """Several answers to a prompt with a score each; answers may be texts or objects with the text and score inside."""
    for row in rows:
        answers = row.items("completions")
        scores = row.items("scores")
        models = row.get("models") or []
        if len(answers) != len(scores):
            raise DataError(f"{row.where}: {len(answers)} completions but {len(scores)} scores")
        yield ranking(row, row.text("prompt"), answers, scores, models)


def ranking(row: Row, prompt: Text, answers: list[Any], scores: list[Any], models: Iterable[Any] = ()) -> Ranking:
    """One ranked list, checked."""
    texts = tuple(as_text(answer, row.where) for answer in answers)
    blank = [i for i, text in enumerate(texts) if is_blank(text)]
    if blank:
        raise DataError(f"{row.where}: completion {blank[0] + 1} of {len(texts)} is empty")
    try:
        numbers = tuple(float(score) for score in scores)
    except (TypeError, ValueError):
        raise DataError(f"{row.where}: scores must be numbers, got {scores!r:.120}") from None
    if len(texts) < 2 or not all(map(math.isfinite, numbers)):
        raise DataError(f"{row.where}: a ranked list needs two answers or more with finite scores, got {numbers}")
    return Ranking(prompt, texts, numbers, models=tuple(map(str, models)), source=row.where)


def ranked_rows(rows: Iterable[Row]) -> Iterator[Ranking]:
    """One scored answer a row; rows of one prompt, wherever they stand, make one list."""
    lists: dict[Text, list[Row]] = {}
    for row in rows:
        prompt = row.text("prompt")
        key = prompt if isinstance(prompt, str) else repr(prompt)
        lists.setdefault(key, []).append(row)
    for members in lists.values():
        answers, scores = [row.text("completion") for row in members], [row.number("score") for row in members]
        models = [row.string("source_model") for row in members]
        yield ranking(members[0], members[0].text("prompt"), answers, scores, models if any(models) else ())


def completions(rows: Iterable[Row]) -> Iterator[Demonstration]:
    """Answers to imitate."""
    for row in rows:
        prompt, completion = _answered(row)
        yield Demonstration(
            prompt, completion, score=row.number("score"), model=row.string("source_model"), source=row.where
        )
