"""Repeats: one configuration with several seeds is one trial, and its average is the trial's value."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from raypo.search.confirming import combined
from raypo.search.folders import MODEL, trial_folder
from raypo.search.jobs import Job, Outcome
from raypo.search.ledger import Ledger
from raypo.search.remote import WorkingCopy
from raypo.search.rivals import before
from raypo.search.rows import Row
from raypo.search.samplers import seed_of
from raypo.study import Study


def names(study: Study, trial: str) -> list[str]:
    """Under which names the jobs of a trial run: its own, then one for every further seed."""
    seeds = study.search.repeats.seeds
    return [trial, *(f"{trial}.r{k}" for k in range(1, seeds))]


def jobs_of(study: Study, job: Job) -> list[Job]:
    """Everything that a trial may be asked to do: the parts of its schedule, then further seeds from start to end."""
    parts = [job.until_fraction(fraction) for fraction in study.objective.at]
    again = names(study, job.trial)[1:]
    seeds = [seed_of(study.search.seed, f"{job.trial}/repeat", k) for k in range(1, len(again) + 1)]
    return [*parts, *(dataclasses.replace(job, trial=name, seed=seed) for name, seed in zip(again, seeds, strict=True))]


def wanted(study: Study, row: Row, others: Iterable[Row]) -> bool:
    """Whether a trial that has finished its schedule is trained with further seeds.

    With `promising_only` that is so where it would lead the `others` of its method, those that had ended when it began,
    so that whichever wins is an average.
    """
    repeats = study.search.repeats
    if repeats.seeds == 1 or not repeats.promising_only:
        return repeats.seeds > 1
    best = max((_value(other) for other in others if other.state == "finished"), default=-math.inf)
    return _value(row) > best


def decided(study: Study, ledger: Ledger, row: Row) -> bool:
    """Whether further seeds follow a trial's schedule; what was decided once stays so."""
    if study.search.repeats.seeds == 1:
        return False
    if "repeated" not in row.attributes:
        others = before(study, ledger, row) if study.search.repeats.promising_only else []
        row = ledger.note(row, "repeated", wanted(study, row, others))
    return bool(row.attributes["repeated"])


def record(ledger: Ledger, row: Row, outcome: Outcome) -> Row:
    """Tell the ledger what a further seed has come to."""
    return ledger.note(row, f"repeat:{len(stored(row)) + 1}", dataclasses.asdict(outcome))


def settle(ledger: Ledger, row: Row, folder: Path) -> Row:
    """Tell the ledger the average of all seeds; their answers lie in the search's folder."""
    return ledger.note(row, "average", average(first_seed(row), stored(row), folder))


def average(first: Outcome, further: Sequence[Outcome], folder: Path) -> dict[str, Any]:
    """The last evaluation of a trial over all its seeds: mean figures, and one interval over all answers.

    Prompts are the same for all seeds, so the interval takes them in clusters; `spread` is the standard deviation
    between seeds.
    """
    outcomes = [first, *further]
    pooled = combined(outcomes, folder)
    own = ("win_rate", "ci_low", "ci_high", "n", "seeds", "spread")
    several = [outcome.evaluation.get("objectives", ()) for outcome in outcomes]
    return {
        **first.evaluation,
        **{
            name: sum(outcome.evaluation[name] for outcome in outcomes) / len(outcomes)
            for name, value in first.evaluation.items()
            if isinstance(value, float) and all(name in outcome.evaluation for outcome in outcomes)
        },
        **({"objectives": [sum(values) / len(values) for values in zip(*several, strict=True)]} if several[0] else {}),
        **{name: pooled[name] for name in own},
        "fraction": first.fraction,
        "step": first.step,
        "cost_s": sum(outcome.cost_s for outcome in outcomes),
    }


def stored(row: Row) -> list[Outcome]:
    """The outcomes of the further seeds that the ledger has."""
    found: list[Outcome] = []
    while (entry := row.attributes.get(f"repeat:{len(found) + 1}")) is not None:
        found.append(Outcome(**entry))
    return found


def first_seed(row: Row) -> Outcome:
    """The last evaluation of a trial's own seed as the outcome it came from."""
    last = dict(row.evaluations[-1])
    fraction, step, cost_s = last.pop("fraction"), last.pop("step"), last.pop("cost_s")
    return Outcome(row.name, "finished", fraction, step, last, cost_s)


def drop_models(study: Study, search: WorkingCopy, trial: str) -> None:
    """Remove the models of further seeds; the trial's own stands for the configuration."""
    for name in names(study, trial)[1:]:
        search.drop(trial_folder(search.path, name) / "model", MODEL)


def _value(row: Row) -> float:
    return float(row.evaluations[-1].get("objective", -math.inf))
