"""Transforms of preference data: pure functions of records, each in a study file as `{name: arguments}`.

Random choices follow from a hash of the row's content and a seed, never from its place, so they nest: the quarter of
a data set lies within its half, and labels flipped at 5 % are flipped at 75 % too. The first argument is the records;
keyword-only names are what a study file may say, with their bounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from raypo.artifacts.hashing import hash_of
from raypo.data.records import Pair, Ranking, Record, as_messages, characters, content
from raypo.data.rewriting import factored, flipped, pair_of
from raypo.errors import DataError

Share = Annotated[float, Field(ge=0, le=1)]
OpenShare = Annotated[float, Field(gt=0, lt=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Reader = Callable[..., Iterable[Record]]


def fraction(records: Sequence[Record], *, share: PositiveShare, seed: int = 0) -> list[Record]:
    """Keep this share of the rows, at least one; smaller shares lie within larger ones."""
    keep = max(1, round(share * len(records)))
    lots = _lots([content(record) for record in records], seed, "fraction")
    return [records[i] for i in sorted(np.argsort(lots, kind="stable")[:keep])]


def flip_labels(records: Sequence[Record], *, share: Share, seed: int = 0) -> list[Record]:
    """Turn the preference of this share of the rows around: label noise of a known size."""
    lots = _lots([content(record) for record in records], seed, "flip_labels")
    chosen = set(np.argsort(lots, kind="stable")[: round(share * len(records))].tolist())
    return [flipped(record) if i in chosen else record for i, record in enumerate(records)]


def filter(
    records: Sequence[Record],
    *,
    min_chars: Count | None = None,
    max_chars: Count | None = None,
    max_prompt_chars: Count | None = None,
    min_margin: float | None = None,
    max_margin: float | None = None,
    max_turns: Count | None = None,
    equals: dict[str, str | int | float | bool] | None = None,
) -> list[Record]:
    """Keep rows for which all conditions hold.

    min_chars, max_chars: characters of every answer; max_prompt_chars: of the prompt; min_margin, max_margin: score of
    the chosen minus score of the rejected answer; max_turns: of the user in the prompt, transcripts included; equals:
    fields of the record and their values.
    """

    def holds(record: Record) -> bool:
        sizes = [characters(completion) for completion in record.completions]
        return (
            (min_chars is None or min(sizes) >= min_chars)
            and (max_chars is None or max(sizes) <= max_chars)
            and (max_prompt_chars is None or characters(record.prompt) <= max_prompt_chars)
            and (min_margin is None or _margin(record, "filter.min_margin") >= min_margin)
            and (max_margin is None or _margin(record, "filter.max_margin") <= max_margin)
            and (max_turns is None or _turns(record) <= max_turns)
            and all(_field(record, name) == value for name, value in (equals or {}).items())
        )

    kept = [record for record in records if holds(record)]
    if not kept:
        raise DataError(f"data.transforms.filter: no row of {len(records)} passes; loosen a condition")
    return kept


def lists_to_pairs(
    records: Sequence[Record], *, take: Literal["best_worst", "best_rest", "all"] = "best_worst"
) -> list[Record]:
    """Pairs of ranked lists: best against worst, best against each other, or every two; ties make no pair."""
    made: list[Record] = []
    for record in records:
        if not isinstance(record, Ranking):
            raise DataError(f"{record.source}: lists_to_pairs needs ranked lists, got {type(record).__name__}")
        order = np.argsort([-score for score in record.scores], kind="stable").tolist()
        chosen = {
            "best_worst": [(order[0], order[-1])],
            "best_rest": [(order[0], i) for i in order[1:]],
            "all": list(combinations(order, 2)),
        }[take]
        made += [pair_of(record, i, j) for i, j in chosen if record.scores[i] > record.scores[j]]
    if not made:
        raise DataError(f"data.transforms.lists_to_pairs: all scores of {len(records)} lists are ties")
    return made


def curriculum(
    records: Sequence[Record],
    *,
    by: Literal["margin", "chars"] = "margin",
    order: Literal["easy_first", "hard_first"] = "easy_first",
    stages: Annotated[int, Field(ge=2, le=1000)] = 3,
) -> list[Record]:
    """Number the rows by stages of equal size, easy ones first: every epoch goes through the stages in turn.

    by: "margin" (a larger score margin is easier) or "chars" (a shorter row is easier). Within a stage rows are
    shuffled.
    """
    if len(records) < stages:
        raise DataError(f"data.transforms.curriculum: {stages} stages need as many rows, got {len(records)}")
    size = [sum(map(characters, (r.prompt, *r.completions))) for r in records]
    hardness = [-_margin(r, "curriculum.by: margin") for r in records] if by == "margin" else size
    ranks = np.argsort(np.argsort(hardness, kind="stable"), kind="stable")
    stage = ranks * stages // len(records)
    return [
        replace(r, stage=int(s if order == "easy_first" else stages - 1 - s))
        for r, s in zip(records, stage, strict=True)
    ]


def factor_common_prefix(records: Sequence[Record]) -> list[Record]:
    """Move what all answers of a row begin with into its prompt, whole words or messages at a time."""
    return [factored(record) for record in records]


def mix(
    records: Sequence[Record],
    *,
    share: OpenShare,
    source: str,
    split: str = "train",
    format: str | dict[str, Any] = "auto",
    columns: dict[str, str] | None = None,
    seed: int = 0,
    read: Reader,
) -> list[Record]:
    """Add rows of another source until they are `share` of all; a replay of earlier data, say."""
    others = list(read(source, split=split, format=format, columns=columns))
    want = round(len(records) * share / (1 - share))
    if want > len(others):
        most = len(others) / (len(others) + len(records))
        raise DataError(
            f"data.transforms.mix.share: {share} needs {want} rows of {source}, got {len(others)}; at most {most:.3f}"
        )
    lots = _lots([content(record) for record in others], seed, "mix")
    return [*records, *(others[i] for i in sorted(np.argsort(lots, kind="stable")[:want]))]


def split(records: Sequence[Record], *, low: Share = 0.0, high: Share = 1.0, seed: int = 0) -> list[Record]:
    """Keep the rows whose prompt falls into [low, high) of [0, 1): parts that do not overlap share no prompt.

    The place of a prompt depends on its text alone, so parts stay disjoint across files and after other transforms.
    """
    if low >= high:
        raise DataError(f"data.transforms.split: needs low < high, got {low} and {high}")
    place = _lots([record.prompt for record in records], seed, "split", distinct=False) / 2.0**64
    kept = [record for record, at in zip(records, place, strict=True) if low <= at < high]
    if not kept:
        raise DataError(f"data.transforms.split: no prompt of {len(records)} rows falls into [{low}, {high})")
    return kept


TRANSFORMS: dict[str, Callable[..., list[Record]]] = {
    f.__name__: f for f in (fraction, flip_labels, filter, lists_to_pairs, curriculum, factor_common_prefix, mix, split)
}


def _lots(contents: Sequence[Any], seed: int, purpose: str, distinct: bool = True) -> np.ndarray:
    """uint64 lot of each content; equal contents draw different lots where they are to be told apart."""
    seen: dict[str, int] = {}
    lots = np.empty(len(contents), np.uint64)
    for i, item in enumerate(contents):
        digest = hash_of([item, seed, purpose])
        if distinct:
            seen[digest] = seen.get(digest, -1) + 1
            digest = hash_of([digest, seen[digest]]) if seen[digest] else digest
        lots[i] = int(digest[:16], 16)
    return lots


def _margin(record: Record, needed_by: str) -> float:
    if not isinstance(record, Pair) or math.isnan(record.margin):
        raise DataError(f"{record.source}: data.transforms.{needed_by} needs scores of both answers; this row has none")
    return record.margin


def _turns(record: Record) -> int:
    return sum(message["role"] == "user" for message in as_messages(record.prompt))


def _field(record: Record, name: str) -> Any:
    fields = content(record)
    if name not in fields:
        raise DataError(f"data.transforms.filter.equals: no field {name!r}; allowed: {', '.join(sorted(fields))}")
    return fields[name]
