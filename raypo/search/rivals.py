"""The configuration that a new one has to beat: the best of its method so far, and its score on every prompt."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from raypo.evaluation.completions import read
from raypo.evaluation.win_rate import Array
from raypo.search.folders import evaluation_file, read_json, trial_folder
from raypo.search.jobs import Job
from raypo.search.remote import WorkingCopy
from raypo.search.rows import trial_name
from raypo.study import Study

READY = 8
"""Most trials that wait ready beside those that slots are at."""


def concurrent_trials(study: Study) -> int:
    """Trials that run or wait ready at a time: for each slot the one at work, and as many ready, up to `READY`."""
    slots = study.resources.slots
    return slots + min(slots, READY)


def best_scores(search: WorkingCopy, job: Job, prompts: int, lag: int) -> Array | None:
    """Scores [prompts] of the best finished and fully judged trial of the job's method, as far trained as this one.

    Only trials more than `lag` before this one count: they have ended when this one is drawn, so that a race does not
    depend on which slot was faster, nor on an interruption. None where there is no such trial.
    """
    label, _, number = job.trial.rpartition("-")
    earlier = [trial_name(label, k) for k in range(max(0, int(number) - lag))]
    search.pull(*(evaluation_file(search.path, name, until) for name in earlier for until in {job.until, 1.0}))
    rates = {name: rate for name in earlier if (rate := _win_rate(search.path, name, job.until)) is not None}
    if not rates:
        return None
    best = max(rates, key=lambda name: rates[name])
    answers = trial_folder(search.path, best) / "completions.parquet"
    search.pull(answers)
    rows = read(answers, job.until)
    return np.array([row.score for row in rows]) if len(rows) == prompts else None


def _win_rate(search: Path, trial: str, until: float) -> float | None:
    """A finished trial's win rate at a fraction of its schedule, where it was judged in full."""
    finished = evaluation_file(search, trial, 1.0).exists()
    record = read_json(evaluation_file(search, trial, until)) if finished else None
    if record is None or "not_judged" in record["evaluation"]:
        return None
    return float(record["evaluation"]["win_rate"])
