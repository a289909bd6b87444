"""From the ledger to plain results: what comparisons, reports and W&B read."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raypo.search.folders import contents_file, origins_file, read_json, trial_folder
from raypo.search.ledger import Ledger, Row
from raypo.search.results import Evaluation, SearchResults, TrialResult, Value
from raypo.search.searches import SearchFolder
from raypo.study import Study

_OWN = ("fraction", "step", "win_rate", "ci_low", "ci_high", "n", "kl", "length", "cost_s")


def read_results(search: SearchFolder, study: Study | None = None, ledger: Ledger | None = None) -> SearchResults:
    """Everything that a search found so far."""
    study = study or search.study()
    ledger = ledger or search.ledger
    order = [*study.methods, *(label for label in ledger.labels() if label not in study.methods)]
    rows = [row for label in order for row in ledger.rows(label)]
    return SearchResults(
        name=search.name,
        folder=search.path,
        study=study.written(),
        versions=search.settings["versions"],
        trials=tuple(trial_result(row, search.path, study) for row in rows),
        origins=read_json(origins_file(search.path)) or {},
        contents=read_json(contents_file(search.path)) or {},
        allow_code=study.allow_code,
    )


def trial_result(row: Row, folder: Path, study: Study) -> TrialResult:
    """One row of the ledger as a result; `hyperparameters` holds what was searched or fixed, but no defaults."""
    entry = study.methods.get(row.label)
    fixed = {} if entry is None else {**entry.departures(), **_fixed_lr(study, row.label)}
    history = tuple(_evaluations(row.evaluations))
    return TrialResult(
        name=row.name,
        method=row.label,
        number=row.number,
        state=row.state,  # type: ignore[arg-type]
        hyperparameters={**fixed, **row.params},
        fraction=history[-1].fraction if history else 0.0,
        history=history,
        cost_s=row.cost_s,
        folder=trial_folder(folder, row.name),
        seed=row.seed,
        reason=row.reason,
        checkpoint=row.checkpoint,
        confirmation=row.confirmation,
        benchmarks=tuple(row.benchmarks or ()),
    )


def _fixed_lr(study: Study, label: str) -> dict[str, Value]:
    """The learning rate, which no departure names, where a method does not search it."""
    return {name: value for name, value in study.fixed(label).items() if name == "lr"}


def _evaluations(entries: tuple[Mapping[str, Any], ...]) -> list[Evaluation]:
    costs = itertools.accumulate(float(entry.get("cost_s", 0.0)) for entry in entries)
    return [
        Evaluation(
            **{name: entry[name] for name in _OWN if name in entry and name != "cost_s"},
            cost_s=cost,
            objectives=tuple(entry.get("objectives", ())),
            metrics={k: v for k, v in entry.items() if k not in _OWN and isinstance(v, int | float)},
        )
        for entry, cost in zip(entries, costs, strict=True)
    ]
