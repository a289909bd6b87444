"""Whether a study's data is what its methods take, and its prompts are like it, told from the first rows of both."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from raypo.data.records import Pair, Ranking, Record, Text, as_answer
from raypo.data.rewriting import as_kind
from raypo.data.specs import Transform, parse_transforms
from raypo.errors import DataError
from raypo.methods import Method
from raypo.search.prompts import from_heldout
from raypo.search.sources import QUICKSTART, read_records
from raypo.spaces import Space, corners
from raypo.study import Entry, Study

ROWS = 256
"""Rows that are looked at; the trainer looks at all of them before its first step."""
ROW_BY_ROW = ("flip_labels", "lists_to_pairs", "factor_common_prefix", "filter")
"""Transforms that may change what a row holds; the others choose among rows, and need all of them for it."""


def misfits(study: Study, variants: Sequence[list[Record]]) -> Iterator[str]:
    """What is missing for every method that cannot be trained on records such as these.

    Of several variants of the data (see `first_records`) the first that a method cannot be trained on is told.
    """
    for label, entry in study.methods.items():
        found = ([*_lacking(entry, records)] for records in variants)
        yield from (f"methods.{label}: {problem}" for problem in next(filter(None, found), []))


def remarks(study: Study, records: list[Record]) -> Iterator[str]:
    """One line for every method that trains on records such as these, but as another method."""
    for label, entry in study.methods.items():
        if records and "unit" in entry.method.carries and all(map(_one_turn, records)):
            yield f"methods.{label}: weighs the turns of an answer; every answer looked at is one turn, of weight 1"


def framed_apart(study: Study, records: Sequence[Record], prompts: Sequence[Text]) -> Iterator[str]:
    """One line where the chat template frames training rows but not evaluation prompts, or the other way round."""
    trained = {any(not isinstance(text, str) for text in (row.prompt, *row.completions)) for row in records}
    asked = {not isinstance(prompt, str) for prompt in prompts}
    if study.data.chat_template is None and len(trained) == 1 and asked - trained:
        rows, questions = ("conversations", "plain text") if True in trained else ("plain text", "conversations")
        yield (
            f"data.chat_template: training rows are {rows}, evaluation prompts {questions}, got null, which frames "
            "conversations alone; set it to default, or to transcript where the model has no template of its own"
        )


def first_prompts(study: Study) -> list[Text]:
    """The first evaluation prompts, and those of the confirmation where it has its own.

    Raises:
        DataError: a source cannot be read.
    """
    found: list[Text] = []
    for wanted in filter(None, (study.objective.prompts, study.confirm.prompts)):
        if from_heldout(study, wanted):
            continue  # rows of the data themselves
        source = wanted.source or study.data.source
        how = {"format": wanted.format, "columns": wanted.columns, "allow_code": study.allow_code}
        rows = read_records(source, split=wanted.split, rows=ROWS, **({} if source == QUICKSTART else how))
        found += [row.prompt for row in rows]
    return found


def first_records(study: Study) -> list[list[Record]]:
    """The data's first rows after the transforms that change what a row holds, once for every corner of their axes.

    Raises:
        DataError: the source cannot be read, or a transform does not apply to its rows.
    """
    data = study.data
    records = read_records(
        data.source,
        split=data.split,
        count=data.count,
        format=data.format,
        columns=data.columns,
        allow_code=study.allow_code,
        seed=data.seed,
        rows=ROWS,
    )
    axes = {
        f"data.{name}": value if name in ROW_BY_ROW else value.values[0]
        for transform in data.transforms
        for name, value in transform.items()
        if isinstance(value, Space)
    }
    found = []
    for point in corners(axes):
        variant = records
        for transform in parse_transforms(study.data_transforms(point)):
            if transform.name in ROW_BY_ROW and variant:
                variant = _transformed(transform, variant)
        found.append(variant)
    return found


def _transformed(transform: Transform, records: list[Record]) -> list[Record]:
    try:
        return transform.apply(records)
    except DataError:
        if transform.name == "filter":
            return []  # that none of the first rows passes says nothing of the others
        raise


def _lacking(entry: Entry, records: list[Record]) -> Iterator[str]:
    """What the method's data must be or carry and these rows are not or do not."""
    try:
        converted = as_kind(records, entry.method.data)  # type: ignore[arg-type]
    except DataError as error:
        yield str(error)
        return
    yield from _without(entry.method, converted)
    yield from _too_close(entry, [record for record in converted if isinstance(record, Pair)])


def _without(method: Method, records: Sequence[Record]) -> Iterator[str]:
    """What the method's data must carry and these rows do not."""
    lists = [record for record in records if isinstance(record, Ranking)]
    longest = max((len(record.completions) for record in lists), default=method.candidates)
    if longest < method.candidates:
        yield (
            f"{method.name} needs {method.candidates} or more scored answers to a prompt, {lists[0].source} and the "
            f"others looked at have at most {longest}; give ranked lists, or choose a method for pairs"
        )
    if "score" in method.carries:
        bare = next((record for record in records if any(map(math.isnan, record.scores))), None)
        if bare is not None:
            yield (
                f"{method.name} needs a score of every answer, {bare.source} has none; name its columns in "
                "data.columns (chosen_score, rejected_score, or scores of a list), or choose a method without scores"
            )


def _too_close(entry: Entry, pairs: Sequence[Pair]) -> Iterator[str]:
    """Pairs whose scores are too close for some value of the hyperparameter that decides on it."""
    gap = entry.method.gap
    if gap is None:
        return
    wanted = entry.hyperparameters[gap.hyperparameter]
    for value in wanted.values if isinstance(wanted, Space) else (wanted,):
        refused = [pair for pair in pairs if pair.margin <= gap.limits[str(value)]]
        if refused:
            first = refused[0]
            example = f"{first.source} has {first.chosen_score:g} against {first.rejected_score:g}"
            yield entry.method.too_close(str(value), f"{len(refused)} of {len(pairs)} pairs looked at", example)


def _one_turn(record: Record) -> bool:
    """Whether each answer is a single turn of the assistant."""
    turns = (as_answer(answer, record.prompt) for answer in record.completions)
    return all(sum(message["role"] == "assistant" for message in answer) <= 1 for answer in turns)
