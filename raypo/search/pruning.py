"""The pruner of each method, with the verdicts it may look at, and what it says of a trial."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

from optuna.pruners import BasePruner

from raypo.evaluation.completions import read
from raypo.search.clock import Clock, length_of
from raypo.search.folders import trial_folder
from raypo.search.ledger import Ledger
from raypo.search.pruners import make_pruner, rungs_of
from raypo.search.remote import WorkingCopy
from raypo.search.rows import Row
from raypo.study import Study


def pruner_name(study: Study) -> str:
    """The study's pruner; without a choice median, where there is one objective and a point to decide at."""
    decides = study.objective.pareto is None and any(1 / 3 - 1e-3 <= fraction < 1 for fraction in study.objective.at)
    return study.search.pruner or ("median" if decides else "none")


def clock_of(study: Study, label: str) -> Clock:
    """The clock of a method."""
    at = tuple(study.objective.at)
    return Clock(at, length_of(study, label), () if pruner_name(study) == "none" else rungs_of(at))


def pruner_for(study: Study, ledger: Ledger, label: str, search: WorkingCopy) -> BasePruner:
    """The study's pruner for one method."""
    scores = partial(verdicts, study, ledger, label, search)
    return make_pruner(pruner_name(study), study.objective.at, scores=scores, clock=clock_of(study, label))


def undecided(study: Study, ledger: Ledger, row: Row) -> bool:
    """Whether the pruner has to know first what trials drawn earlier report."""
    return clock_of(study, row.label).undecided(ledger.frozen(row), ledger.known(row.label).open)


def pruned(study: Study, ledger: Ledger, row: Row, search: WorkingCopy) -> str | None:
    """Why a trial ends at its newest evaluation; None where it goes on."""
    values = [e.get("objective", math.nan) for e in row.evaluations]
    if not values or math.isnan(values[-1]) or "replaces" in row.attributes:
        return None
    trial = ledger.frozen(row)
    if (trial.last_step or 0) >= len(row.evaluations):
        return None  # a crash came between a value and its evaluation, which is told again
    if not pruner_for(study, ledger, row.label, search).prune(ledger.study(row.label), trial):
        return None
    return f"{pruner_name(study)} at {row.evaluations[-1]['fraction']:.0%}"


def verdicts(
    study: Study, ledger: Ledger, label: str, search: WorkingCopy, number: int, index: int
) -> Mapping[str, float]:
    """Scores by prompt of one trial's evaluation, from its answers; empty while there are none."""
    names = [row.name for row in ledger.rows(label) if row.number == number]
    if not names:
        return {}
    path = trial_folder(search.path, names[0]) / "completions.parquet"
    search.pull(path)  # another machine may have run this trial
    if not path.exists():
        return {}
    at = study.objective.at[index]
    return {row.prompt: row.score for row in read(path) if math.isclose(row.fraction, at, abs_tol=1e-6)}
