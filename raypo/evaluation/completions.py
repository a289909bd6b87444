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
from raypo.evaluation.judges import Verdict
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


NOT_JUDGED = Verdict(math.nan, failure="not judged, for the configuration was behind by then")


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


def append(
    path: Path,
    *,
    fraction: float,
    prompts: Sequence[Text],
    answers: Sequence[str],
    opponents: Sequence[str],
    verdicts: Sequence[Verdict | None],
    judge: str,
) -> None:
    """Add one evaluation, made at `fraction` in (0, 1] of the schedule, to a file.

    Rows of the same fraction are replaced: an evaluation that is run again is stored once. A verdict of None says that
    the answer was left unjudged.
    """
    kept = [row for row in read(path) if row.fraction != fraction] if path.exists() else []
    texts = zip(map(as_text, prompts), answers, opponents, strict=True)
    rows = [*kept, *(_row(fraction, *text, v, judge) for text, v in zip(texts, verdicts, strict=True))]
    columns = {name: [getattr(row, name) for row in rows] for name in SCHEMA.names}
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        pq.write_table(pa.table(columns, schema=SCHEMA), file)
        file.flush()
        os.fsync(file.fileno())  # the evaluation's record, which is on the disk at once, must find them there
    part.replace(path)


def read(path: Path, fraction: float | None = None) -> list[Judged]:
    """The stored rows, of one evaluation if `fraction` is given."""
    rows = [Judged(**row) for row in pq.read_table(path).to_pylist()]
    return [row for row in rows if fraction is None or row.fraction == fraction]


def _row(fraction: float, prompt: str, answer: str, opponent: str, given: Verdict | None, judge: str) -> Judged:
    verdict = given or NOT_JUDGED
    first, second = verdict.orders or (math.nan, math.nan)
    own, other = verdict.ratings or (math.nan, math.nan)
    return Judged(fraction, prompt, answer, opponent, verdict.score, judge, first, second, own, other, verdict.failure)
