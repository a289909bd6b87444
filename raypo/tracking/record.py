"""What a trial's folder holds, read back: its step log and its judged completions.

The record is the only truth; W&B and the report are drawn from it. Steps that were trained again after a resume appear
twice in the step log, and the later line counts. A line that was cut off by a kill is left out and said.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from raypo.search.results import Evaluation, TrialResult

Row = dict[str, Any]

log = logging.getLogger(__name__)


def step_log(folder: Path) -> list[Row]:
    """Return the logged training steps of a trial in order, each step once; empty before the first."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    steps: dict[int, Row] = {}
    for count, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            steps[int(row["step"])] = row
        except (ValueError, KeyError, TypeError):
            log.warning("%s: line %d is not a logged step, got %.60r; left out", path, count, line)
    return [steps[step] for step in sorted(steps)]


def evaluation_row(point: Evaluation) -> Row:
    """Flatten one evaluation into a row of metrics, `eval/` before each figure."""
    names = ("win_rate", "ci_low", "ci_high", "n", "kl", "length", "cost_s")
    figures = {f"eval/{name}": getattr(point, name) for name in names}
    return {"step": point.step, "fraction": point.fraction, **figures, **point.metrics}


def merge(rows: Iterable[Row]) -> list[Row]:
    """Join the rows of each step into one, in the order of the steps; a later row's figures win."""
    steps: dict[int, Row] = {}
    for row in rows:
        steps.setdefault(int(row["step"]), {}).update(row)
    return [steps[step] for step in sorted(steps)]


def rows(trial: TrialResult) -> list[Row]:
    """Return everything that was measured of a trial: one row per step, its evaluation in the same row."""
    return merge([*step_log(trial.folder), *(evaluation_row(point) for point in trial.history)])


def completions(folder: Path, columns: list[str] | None = None) -> list[Row]:
    """Return a trial's judged completions, one per prompt and evaluation; empty where none were kept."""
    path = folder / "completions.parquet"
    return pq.read_table(path, columns=columns).to_pylist() if path.exists() else []


def quoted_scores(trial: TrialResult) -> dict[str, float]:
    """Return each prompt's mean score in the answers that a trial's quoted win rate rests on, over all their seeds."""
    scores: dict[str, list[float]] = {}
    for folder in _quoted(trial):
        for prompt, score in final_scores(folder):
            scores.setdefault(prompt, []).append(score)
    return {prompt: sum(found) / len(found) for prompt, found in scores.items()}


def final_scores(folder: Path) -> list[tuple[str, float]]:
    """Return (prompt, score in [0, 1]) of each verdict at a trial's latest evaluation."""
    judged = completions(folder, ["fraction", "prompt", "score"])
    last = max((row["fraction"] for row in judged), default=0.0)
    return [
        (row["prompt"], row["score"])
        for row in judged
        if row["fraction"] == last and row["score"] is not None and math.isfinite(row["score"])
    ]


def _quoted(trial: TrialResult) -> list[Path]:
    """Folders of the trainings behind a quoted win rate: the confirmation's, else the trial's own and further seeds."""
    found, last = trial.confirmed, trial.estimate
    if found is not None:
        failed = found.get("failed", {})
        names = [f"{trial.name}.s{k}" for k in range(int(found.get("seeds", 1)) + len(failed))]
        return [trial.folder.with_name(name) for name in names if name not in failed]
    seeds = int(last.metrics.get("seeds", 1)) if last else 1
    return [trial.folder, *(trial.folder.with_name(f"{trial.name}.r{k}") for k in range(1, seeds))]
