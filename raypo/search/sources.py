"""The rows that a study names: the generated task of the quickstart, files, the hub, a function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from raypo.data import sources
from raypo.data.records import Demonstration, Pair, Ranking, Record, Text
from raypo.data.rewriting import demonstrations
from raypo.data.sources import Loaded
from raypo.data.specs import apply_transforms, parse_transforms
from raypo.errors import DataError
from raypo.quickstart import task

QUICKSTART = "quickstart"
_SPLITS = {"train": "train", "test": "eval"}
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
        made = _generated(format, min(count or 2000, rows or 2000), split, seed)
        return Loaded(made, "generated", {"rows": len(made)})
    loaded = sources.load(source, split=split, format=format, columns=columns, allow_code=allow_code, rows=rows)
    return replace(loaded, records=loaded.records[:count])


def read_records(source: str, **how: Any) -> list[Record]:
    """The records of `read_source`."""
    return read_source(source, **how).records


def _generated(format: Format, count: int, split: str, seed: int) -> list[Record]:
    name, options = (format, {}) if isinstance(format, str) else next(iter(format.items()))
    part: Any = _SPLITS.get(split, split)
    if name in ("auto", "pairs") and not options:
        made = task.pairs(count, seed, part)
        return [Pair(**row, source=f"quickstart row {i}") for i, row in enumerate(made, 1)]
    if name == "ranked" and set(options) <= {"answers"}:
        lists = task.rankings(count, seed, part, **options)
        return [Ranking(**row, source=f"quickstart row {i}") for i, row in enumerate(lists, 1)]
    raise DataError(f"data.format: the quickstart has pairs, ranked and {{ranked: {{answers: 4}}}}, got {format!r}")


def read_demonstrations(source: str, **how: Any) -> list[Record]:
    """Answers to imitate; the quickstart has its own, of mixed quality."""
    if source == QUICKSTART:
        rows: list[dict[str, Any]] = [*task.demonstrations(how.get("count") or 4000, how.get("seed", 0))]
        return [Demonstration(**row, source=f"quickstart row {i}") for i, row in enumerate(rows, 1)]
    return read_records(source, **how)


def read_prompts(
    source: str, *, split: str, count: int, transforms: Sequence[Any] = (), **how: Any
) -> list[tuple[Text, Text | None]]:
    """(prompt, the data's own best answer or None) of `count` different prompts, in the order of the source.

    Where rows share a prompt, the answer is that of the first one which has a good one.

    Raises:
        DataError: the source holds fewer different prompts.
    """
    if source == QUICKSTART:
        return [(prompt, None) for prompt in task.prompts(count, how.get("seed", 0), _SPLITS.get(split, split))]  # type: ignore[arg-type]
    parsed = parse_transforms(transforms, "objective.prompts.transforms")
    records = apply_transforms(read_records(source, split=split, **how), parsed, read_records)
    seen: dict[str, tuple[Text, Text | None]] = {}
    for record in records:
        name = repr(record.prompt)
        if name not in seen and len(seen) == count:
            continue
        _, best = seen.get(name, (record.prompt, None))
        seen[name] = (record.prompt, best or next((good.completion for good in demonstrations(record)), None))
    if len(seen) < count:
        raise DataError(f"{source} ({split}): {len(seen)} different prompts, the study asks for {count}; lower count")
    return list(seen.values())
