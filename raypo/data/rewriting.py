"""One record made into another: turned around, taken from a list, or with its common beginning moved."""

from __future__ import annotations

from dataclasses import replace

from raypo.data.records import (
    KINDS,
    Demonstration,
    Kind,
    Labelled,
    Pair,
    Ranking,
    Record,
    Text,
    common_prefix,
    word_boundary,
)
from raypo.errors import DataError


def flipped(record: Record) -> Record:
    """The opposite preference; scores and models stay with their answers, ranks of a list are mirrored."""
    if isinstance(record, Pair):
        return replace(
            record,
            chosen=record.rejected,
            rejected=record.chosen,
            chosen_score=record.rejected_score,
            rejected_score=record.chosen_score,
            chosen_model=record.rejected_model,
            rejected_model=record.chosen_model,
        )
    if isinstance(record, Labelled):
        return replace(record, desirable=not record.desirable)
    if isinstance(record, Ranking):
        low, high = min(record.scores), max(record.scores)
        return replace(record, scores=tuple(low + high - score for score in record.scores))
    raise DataError(f"{record.source}: flip_labels needs a preference, got {type(record).__name__}")


def pair_of(record: Ranking, i: int, j: int) -> Pair:
    """Answers i (chosen) and j (rejected) of a ranked list."""
    models = record.models or ("",) * len(record.scores)
    return Pair(
        record.prompt,
        record.completions[i],
        record.completions[j],
        chosen_score=record.scores[i],
        rejected_score=record.scores[j],
        chosen_model=models[i],
        rejected_model=models[j],
        final=record.final,
        stage=record.stage,
        source=record.source,
    )


def factored(record: Record) -> Record:
    """The same record with what all its answers begin with moved into the prompt."""
    if isinstance(record, Pair):
        prompt, (chosen, rejected) = _moved(record.prompt, (record.chosen, record.rejected))
        return replace(record, prompt=prompt, chosen=chosen, rejected=rejected)
    if isinstance(record, Ranking):
        prompt, answers = _moved(record.prompt, record.completions)
        return replace(record, prompt=prompt, completions=answers)
    raise DataError(
        f"{record.source}: factor_common_prefix needs several answers to a prompt, got {type(record).__name__}"
    )


def _moved(prompt: Text, answers: tuple[Text, ...]) -> tuple[Text, tuple[Text, ...]]:
    """Prompt and answers with the answers' common beginning moved; something is left of every answer."""
    texts = [answer for answer in answers if isinstance(answer, str)]
    if len(texts) == len(answers):
        cut = _shared_words(texts)
        if isinstance(prompt, str):
            return prompt + texts[0][:cut], tuple(text[cut:] for text in texts)
        begun = ({"role": "assistant", "content": texts[0][:cut]},) if cut else ()
        return prompt + begun, tuple(text[cut:] for text in texts)
    turns = [answer for answer in answers if not isinstance(answer, str)]
    if len(turns) < len(answers) or isinstance(prompt, str):
        return prompt, answers
    cut = min(common_prefix(*turns), min(map(len, turns)) - 1)
    prompt, turns = prompt + turns[0][:cut], [turn[cut:] for turn in turns]
    if all(len(turn) == 1 and turn[0]["role"] == "assistant" for turn in turns) and prompt[-1]["role"] != "assistant":
        return _moved(prompt, tuple(str(turn[0]["content"]) for turn in turns))
    return prompt, tuple(turns)


def _shared_words(texts: list[str]) -> int:
    end = min(common_prefix(*texts), min(map(len, texts)) - 1)
    return min(word_boundary(text, end) for text in texts)


def demonstrations(record: Record, on: str = "chosen") -> list[Demonstration]:
    """Answers to imitate: the best one ("chosen"), or all that the record holds ("both")."""
    answers = list(zip(record.completions, record.scores, strict=True))
    if isinstance(record, Ranking):
        answers.sort(key=lambda answer: -answer[1])
    wanted = answers[:1] if on == "chosen" else answers
    if isinstance(record, Labelled) and on == "chosen" and not record.desirable:
        wanted = []
    return [
        Demonstration(record.prompt, text, score, final=record.final, stage=record.stage, source=record.source)
        for text, score in wanted
    ]


def as_kind(records: list[Record], kind: Kind) -> list[Record]:
    """Records as a method of this kind takes them.

    Pairs become unpaired answers (chosen good, rejected bad), lists of two, or demonstrations; lists become
    demonstrations of their best. Other ways lose or invent preferences and raise DataError.
    """
    return [made for record in records for made in _as_kind(record, kind)]


def _as_kind(record: Record, kind: Kind) -> list[Record]:
    if kind == KINDS[type(record)]:
        return [record]
    if kind == "completions":
        return [*demonstrations(record)]
    if isinstance(record, Pair) and kind == "unpaired":
        return [_labelled(record, True), _labelled(record, False)]
    if isinstance(record, Pair) and kind == "ranked":
        return [_listed(record)]
    hint = "; add the transform lists_to_pairs" if isinstance(record, Ranking) else ""
    raise DataError(f"{record.source}: the method takes {kind} data, the rows are {KINDS[type(record)]}{hint}")


def _labelled(record: Pair, desirable: bool) -> Labelled:
    return Labelled(
        record.prompt,
        record.chosen if desirable else record.rejected,
        desirable,
        score=record.chosen_score if desirable else record.rejected_score,
        model=record.chosen_model if desirable else record.rejected_model,
        final=record.final,
        stage=record.stage,
        source=record.source,
    )


def _listed(record: Pair) -> Ranking:
    # Scores that are missing, tied or against the preference would undo it, for a list is ranked by its scores alone.
    return Ranking(
        record.prompt,
        record.completions,
        record.scores if record.margin > 0 else (1.0, 0.0),
        models=(record.chosen_model, record.rejected_model),
        final=record.final,
        stage=record.stage,
        source=record.source,
    )
