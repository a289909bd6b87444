"""The rows that a study names: the generated task of the quickstart, files, the hub, a function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from raypo.data import sources
from raypo.data.records import Demonstration, Pair, Ranking, Record
from raypo.data.sources import Loaded
from raypo.errors import DataError
from raypo.quickstart import task
from raypo.study import Study

QUICKSTART = "quickstart"
SPLITS = {"train": "train", "test": "eval"}
Format = str | Mapping[str, Mapping[str, Any]]


def read_source(
    source: str,
    *,
    split: str = "train",
    count: int | None = None,
    format: Format = "auto",
    columns: Mapping[str, str] | None = None,
    allow_code: bool = False,
    seed: int = 0,
    rows: int | None = None,
) -> Loaded:
    """All rows of a source, or the first `count` of them (the quickstart generates as many as are asked for).

    `rows` reads no further than that many rows of the source, to see what they are like. The quickstart has the
    formats `pairs` and `ranked`, the latter with the option `answers`.
    """
    if source == QUICKSTART:
        wanted = count or 2000
        made = _generated(format, wanted if rows is None else min(wanted, rows), split, seed)
        return Loaded(made, "generated", {"rows": len(made)})
    loaded = sources.load(source, split=split, format=format, columns=columns, allow_code=allow_code, rows=rows)
    return replace(loaded, records=loaded.records[:count])


def read_records(source: str, **how: Any) -> list[Record]:
    """The records of `read_source`."""
    return read_source(source, **how).records


def _generated(format: Format, count: int, split: str, seed: int) -> list[Record]:
    name, options = sources.named_format(format)
    part: Any = SPLITS.get(split, split)
    if name in ("auto", "pairs") and not options:
        made = task.pairs(count, seed, part)
        return [Pair(**row, source=f"quickstart row {i}") for i, row in enumerate(made, 1)]
    if name == "ranked" and set(options) <= {"answers"} and type(options.get("answers", 4)) is int:
        lists = task.rankings(count, seed, part, **options)
        return [Ranking(**row, source=f"quickstart row {i}") for i, row in enumerate(lists, 1)]
    raise DataError(f"data.format: the quickstart has pairs, ranked and {{ranked: {{answers: 4}}}}, got {format!r}")


def read_demonstrations(source: str, **how: Any) -> list[Record]:
    """Answers to imitate; the quickstart has its own, of mixed quality."""
    if source == QUICKSTART:
        rows: list[dict[str, Any]] = [*task.demonstrations(how.get("count") or 4000, how.get("seed", 0))]
        return [Demonstration(**row, source=f"quickstart row {i}") for i, row in enumerate(rows, 1)]
    return read_records(source, **how)


def read_judge_rows(study: Study, rows: int | None = None) -> list[Record]:
    """What a judge is trained on, before its transforms; rows of the data's own source are read as the data's are.

    Raises:
        DataError: the source cannot be read.
    """
    wanted, data = study.objective.judge, study.data
    format, columns = wanted.format, wanted.columns
    # The quickstart makes lists where the data asks for them, and a judge learns from pairs.
    if wanted.source == data.source != QUICKSTART and format == "auto" and not columns:
        format, columns = data.format, data.columns
    how: dict[str, Any] = {"split": wanted.split, "count": wanted.count, "allow_code": study.allow_code, "rows": rows}
    try:
        return read_records(str(wanted.source), format=format, columns=columns, **how)
    except DataError as error:
        raise DataError(f"objective.judge: {error}") from error
