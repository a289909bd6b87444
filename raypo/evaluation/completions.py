"""Completions and their verdicts as a Parquet file, one part for each evaluation of a trial."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from raypo.data.records import Text
from raypo.evaluation.judges import Comparison, Verdict
from raypo.evaluation.prompts import as_text

SCHEMA = pa.schema(
    [
        ("fraction", pa.float64()),
        ("prompt", pa.string()),
        ("answer", pa.string()),
        ("opponent", pa.string()),
        ("score", pa.float64()),
        ("judge", pa.string()),
        ("shown_first", pa.float64()),
        ("shown_second", pa.float64()),
        ("rating", pa.float64()),
        ("opponent_rating", pa.float64()),
        ("failure", pa.string()),
    ]
)


@dataclass(frozen=True)
class Judged:
    """A stored comparison: score is nan where the judge failed; orders and ratings nan where it gives none."""

    fraction: float
    prompt: str
    answer: str
    opponent: str
    score: float
    judge: str
    shown_first: float = math.nan
    shown_second: float = math.nan
    rating: float = math.nan
    opponent_rating: float = math.nan
    failure: str | None = None


def judged(fraction: float, comparisons: Sequence[Comparison], verdicts: Sequence[Verdict], judge: str) -> list[Judged]:
    """Rows to be stored, one a comparison; `fraction` in (0, 1] is the share of the schedule done."""
    rows = []
    for item, verdict in zip(comparisons, verdicts, strict=True):
        first, second = verdict.orders or (math.nan, math.nan)
        own, other = verdict.ratings or (math.nan, math.nan)
        prompt: Text = item.prompt
        texts = (as_text(prompt), item.answer, item.opponent)
        rows.append(Judged(fraction, *texts, verdict.score, judge, first, second, own, other, verdict.failure))
    return rows


def append(path: Path, rows: Sequence[Judged]) -> None:
    """Add rows to a file, replacing those of the same fraction: an evaluation that is run again is stored once."""
    fractions = {row.fraction for row in rows}
    kept = [row for row in read(path) if row.fraction not in fractions] if path.exists() else []
    columns = {name: [getattr(row, name) for row in (*kept, *rows)] for name in SCHEMA.names}
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    pq.write_table(pa.table(columns, schema=SCHEMA), part)
    part.replace(path)


def read(path: Path, fraction: float | None = None) -> list[Judged]:
    """The stored rows, of one evaluation if `fraction` is given."""
    rows = [Judged(**row) for row in pq.read_table(path).to_pylist()]
    return [row for row in rows if fraction is None or row.fraction == fraction]
