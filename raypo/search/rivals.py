"""The configuration that a new one has to beat: the best of its method so far, and its score on every prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from raypo.evaluation.completions import read
from raypo.evaluation.win_rate import Array
from raypo.search.clock import began
from raypo.search.folders import trial_folder
from raypo.search.jobs import Job
from raypo.search.ledger import Ledger
from raypo.search.pruning import clock_of
from raypo.search.remote import WorkingCopy
from raypo.search.rows import Row
from raypo.study import Study


def racing(study: Study, ledger: Ledger, row: Row, jobs: Sequence[Job]) -> list[Job]:
    """A trial's jobs, each with the rival it races against where the study has configurations race.

    The rival is the best finished and fully judged trial of the method, as far trained as this one will be, among those
    that had ended when this one began; so a race depends neither on which slot was faster nor on an interruption.
    """
    if not study.objective.racing:
        return list(jobs)
    seen = before(study, ledger, row)
    return [replace(job, rival=_best(seen, index)) for index, job in enumerate(jobs)]


def before(study: Study, ledger: Ledger, row: Row) -> list[Row]:
    """The finished trials of a trial's method that had ended when it began."""
    clock, now = clock_of(study, row.label), began(ledger.frozen(row))
    finished = [other for other in ledger.rows(row.label) if other.state == "finished" and other.name != row.name]
    return [other for other in finished if clock.over(ledger.frozen(other), now)]


def scores_of(search: WorkingCopy, job: Job, prompts: int) -> Array | None:
    """Scores [prompts] of the job's rival; None where it has none."""
    if job.rival is None:
        return None
    answers = trial_folder(search.path, job.rival) / "completions.parquet"
    search.pull(answers)
    rows = read(answers, job.until)
    return np.array([row.score for row in rows]) if len(rows) == prompts else None


def _best(rows: Sequence[Row], index: int) -> str | None:
    """The trial with the best win rate at an evaluation where it was judged in full."""
    judged = [row for row in rows if index < len(row.evaluations) and "not_judged" not in row.evaluations[index]]
    return max(judged, key=lambda row: row.evaluations[index]["win_rate"]).name if judged else None
