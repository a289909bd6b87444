"""A trial's answers beside the opponent's, with the verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.table import Table

from raypo.errors import StorageError
from raypo.evaluation.completions import Judged, read
from raypo.search.results import TrialResult


def last_answers(trial: TrialResult) -> list[Judged]:
    """The answers of a trial's last evaluation.

    Raises:
        StorageError: it has none yet.
    """
    path = trial.folder / "completions.parquet"
    if not path.exists():
        raise StorageError(f"{trial.name}: no answers yet, it is {trial.state}; its first evaluation writes them")
    rows = read(path)
    last = max(row.fraction for row in rows)
    return [row for row in rows if row.fraction == last]


def to_rich(trial: str, rows: Sequence[Judged]) -> Table:
    """A row per prompt."""
    judge = rows[0].judge if rows else "nobody"
    drawn = Table(title=trial, caption=f"1 is a win of {trial}, 0 of the opponent; judge {judge}", box=box.SIMPLE_HEAD)
    for column in ("prompt", "answer", "opponent", "verdict"):
        drawn.add_column(column, overflow="fold", ratio=None if column == "verdict" else 1)
    for row in rows:
        verdict = f"{row.score:.2g}" if row.failure is None else f"none: {row.failure}"
        drawn.add_row(row.prompt.strip(), row.answer.strip(), row.opponent.strip(), verdict, end_section=True)
    return drawn


def as_json(rows: Sequence[Judged]) -> list[dict[str, Any]]:
    """The same as plain data, nans left out."""
    return [{name: value for name, value in asdict(row).items() if value == value} for row in rows]
