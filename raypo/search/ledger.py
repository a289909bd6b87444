"""The ledger: Optuna's storage is the one memory of a search.

One study per method, in one journal file (or a database): suggestions, intermediate values, states, and per trial
what it was made of and what became of it. Resuming, extending and forking are the same act: open it and go on.
Evaluations are numbered by their place in `objective.at`; a number that is already there is never written again.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from raypo.errors import StorageError
from raypo.search.clock import BEGAN
from raypo.search.jobs import Outcome
from raypo.search.rows import ADOPTED, Known, Row, renamed, replaced_by, row_of, trial_name
from raypo.search.samplers import RepeatableSampler
from raypo.search.storage import open_storage
from raypo.search.view import Space

__all__ = ["CONTROL", "Ledger", "Row", "trial_name"]

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

CONTROL = "@control"
"""The study that holds commands rather than trials; no label of a method may begin like this."""
_STATES = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED}


class Ledger:
    """All studies of one search in one storage. One driver writes; anyone may read, which writes nothing.

    `goals` names what is maximised where that is more than one thing; `-kl` is the negative of the KL.
    """

    def __init__(self, where: str | Path, search: str, goals: Sequence[str] = ()) -> None:
        self.search, self.goals = search, tuple(goals)
        self.storage = open_storage(where)
        self._studies: dict[str, optuna.Study] = {}
        self._known: dict[str, Known] = {}

    def study(self, label: str) -> optuna.Study:
        """The Optuna study of a method, created on first use."""
        goals = () if label == CONTROL else self.goals
        if self._found(label) is None:
            directions = [StudyDirection.MAXIMIZE] * max(1, len(goals))
            with contextlib.suppress(optuna.exceptions.DuplicatedStudyError):  # another process was first
                optuna.create_study(storage=self.storage, study_name=f"{self.search}/{label}", directions=directions)
        study = self._found(label)
        assert study is not None
        if goals and study.metric_names is None:
            study.set_metric_names(list(goals))
        return study

    def _found(self, label: str) -> optuna.Study | None:
        """The Optuna study of a method if there is one; opening it by name writes nothing."""
        if label not in self._studies:
            with contextlib.suppress(KeyError):
                self._studies[label] = optuna.load_study(
                    storage=self.storage,
                    study_name=f"{self.search}/{label}",
                    sampler=optuna.samplers.RandomSampler(seed=0),
                    pruner=optuna.pruners.NopPruner(),
                )
        return self._studies.get(label)

    def labels(self) -> list[str]:
        """The methods that this search has ever had."""
        prefix = f"{self.search}/"
        names = [s.study_name for s in self.storage.get_all_studies() if s.study_name.startswith(prefix)]
        return [name.removeprefix(prefix) for name in names if name != prefix + CONTROL]

    def ask(self, label: str, sampler: RepeatableSampler, seed: int, now: float | None = None) -> Row:
        """Draw the next trial of a method (an enqueued one first), which begins `now`, and record it as running."""
        study = self.study(label)
        study.sampler = sampler
        trial = sampler.ask(study, {"seed": seed}, self.known(label), now)
        return self._row(label, self.storage.get_trial(trial._trial_id))

    def enqueue(self, label: str, params: Mapping[str, Any], source: str) -> Row:
        """Have these values tried next; asked again by the same source, it is the same trial."""
        study = self.study(label)
        known = self._from(label, source)
        if known is None:
            study.enqueue_trial(dict(params), user_attrs={"source": source})
            known = study.get_trials(deepcopy=False)[-1]
        return self._row(label, known)

    def known(self, label: str) -> Known:
        """What is open of a method, and how many of its trials were drawn."""
        if label not in self._known:
            self._known[label] = Known(self.study(label).get_trials(deepcopy=False))
        return self._known[label]

    def next_name(self, label: str) -> str:
        """What the trial of a method that is made next is called."""
        return trial_name(label, self.known(label).next_number)

    def resumed(self, row: Row, source: str) -> Row:
        """An ended trial that goes on: a new one that has its name, values, evaluations and costs, and replaces it.

        Optuna opens no ended trial again. The new one is made in one write, so both are never seen at once.
        """
        known = self._from(row.label, source)
        if known is None:
            old = self.frozen(row)
            gone = ("state", "reason", "source", BEGAN)
            kept = {name: value for name, value in old.user_attrs.items() if name not in gone}
            self.study(row.label).add_trial(
                optuna.trial.create_trial(
                    state=TrialState.RUNNING,
                    params=old.params,
                    distributions=old.distributions,
                    user_attrs={**kept, "name": row.name, "replaces": row.number, "source": source},
                    intermediate_values=old.intermediate_values,
                )
            )
            known = self.study(row.label).get_trials(deepcopy=False)[-1]
        return self._row(row.label, known)

    def adopt(self, earlier: Ledger, row: Row, params: dict[str, Any], space: Space, source: str) -> Row:
        """Take over a finished trial of an earlier search, as `source`, with everything that is known of it."""
        old = earlier.frozen(row)
        gone = ("name", "replaces", "source", BEGAN)
        study = self.study(row.label)
        now = self.next_name(row.label)
        kept = {name: renamed(value, row.name, now) for name, value in old.user_attrs.items() if name not in gone}
        study.add_trial(
            optuna.trial.create_trial(
                state=old.state,
                values=old.values,
                params=params,
                distributions=dict(space),
                user_attrs={**kept, "source": source, ADOPTED: earlier.known(row.label).seeds},
                intermediate_values=old.intermediate_values,
            )
        )
        return self._row(row.label, study.get_trials(deepcopy=False)[-1])

    def record(self, row: Row, index: int, outcome: Outcome) -> Row:
        """Write one evaluation, once: value, figures, cost and checkpoint."""
        if index < len(row.evaluations):
            return row
        trial_id = self._id(row)
        entry = {**outcome.evaluation, "fraction": outcome.fraction, "step": outcome.step, "cost_s": outcome.cost_s}
        value = outcome.evaluation.get("objective")
        if value is not None and value == value:
            self.storage.set_trial_intermediate_value(trial_id, index, float(value))
        if outcome.checkpoint:
            self.storage.set_trial_user_attr(trial_id, "checkpoint", outcome.checkpoint)
        self.storage.set_trial_user_attr(trial_id, f"evaluation:{index}", entry)
        return self.row(row.name)

    def end(self, row: Row, state: str, reason: str | None = None, cost_s: float = 0.0) -> Row:
        """Close a trial as finished, pruned, stopped, failed or diverged; only a finished one gets a value."""
        current = self.row(row.name)
        if current.over:
            return current
        trial_id = self._id(row)
        if reason != current.reason:  # a crash may have left one of an end that did not come about
            self.storage.set_trial_user_attr(trial_id, "reason", reason)
        self.spend(current, cost_s)
        self.storage.set_trial_user_attr(trial_id, "state", state)
        values = None
        if state == "finished" or (state == "pruned" and current.evaluations):
            last = current.evaluations[-1]
            values = [float(value) for value in last.get("objectives", [last["objective"]])]
        self.storage.set_trial_state_values(trial_id, _STATES.get(state, TrialState.FAIL), values)
        return self.row(row.name)

    def spend(self, row: Row, cost_s: float) -> None:
        """Count device-seconds that led to no evaluation."""
        if cost_s:
            lost = row.attributes.get("lost_s", 0.0) + cost_s
            self.storage.set_trial_user_attr(self._id(row), "lost_s", lost)

    def mark(self, row: Row, state: str, reason: str | None = None) -> Row:
        """Call an open trial paused, or running again."""
        self.storage.set_trial_user_attr(self._id(row), "reason", reason)
        self.storage.set_trial_user_attr(self._id(row), "state", state)
        return self.row(row.name)

    def note(self, row: Row, key: str, value: Any) -> Row:
        """Keep something with an open trial."""
        self.storage.set_trial_user_attr(self._id(row), key, value)
        return self.row(row.name)

    def confirm(self, row: Row, confirmation: Mapping[str, Any]) -> None:
        """Keep a trial's confirmation; with the study, for Optuna lets nobody write to an ended trial."""
        self.study(row.label).set_user_attr(f"confirmation:{row.number}", dict(confirmation))

    def benchmark(self, row: Row, scores: Sequence[Mapping[str, Any]]) -> None:
        """Keep a finished trial's benchmark figures, as plain data."""
        self.study(row.label).set_user_attr(f"benchmarks:{row.number}", [dict(score) for score in scores])

    def rows(self, label: str | None = None) -> list[Row]:
        """All trials, in the order they were drawn, method by method."""
        labels = [label] if label is not None else self.labels()
        return [
            row_of(name, trial, notes)
            for name in labels
            if (study := self._found(name)) is not None
            for trials in [study.get_trials(deepcopy=False)]
            for replaced, notes in [(replaced_by(trials), self.notes(name))]
            for trial in trials
            if trial.number not in replaced
        ]

    def row(self, name: str) -> Row:
        """One trial by name.

        Raises:
            StorageError: there is none of that name.
        """
        label, _, number = name.rpartition("-")
        if number.isdecimal() and self._found(label) is not None:
            study_id, latest = self.study(label)._study_id, self.known(label).latest(int(number))
            with contextlib.suppress(KeyError):
                trial_id = self.storage.get_trial_id_from_study_id_trial_number(study_id, latest)
                return self._row(label, self.storage.get_trial(trial_id))
        raise StorageError(f"{self.search}: no trial {name!r}; raypo status {self.search} lists them")

    def frozen(self, row: Row) -> FrozenTrial:
        """The Optuna record behind a row, for pruners."""
        return self.trial(row.label, row.number)

    def trial(self, label: str, number: int) -> FrozenTrial:
        """The Optuna record of a method's trial, by its number there."""
        study_id = self.study(label)._study_id
        return self.storage.get_trial(self.storage.get_trial_id_from_study_id_trial_number(study_id, number))

    def _from(self, label: str, source: str) -> FrozenTrial | None:
        trials = reversed(self.study(label).get_trials(deepcopy=False))
        return next((trial for trial in trials if trial.user_attrs.get("source") == source), None)

    def notes(self, label: str) -> dict[str, Any]:
        """What is kept with a method's study rather than with its trials."""
        study = self._found(label)
        return {} if study is None else self.storage.get_study_user_attrs(study._study_id)

    def _id(self, row: Row) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(self.study(row.label)._study_id, row.number)

    def _row(self, label: str, trial: FrozenTrial) -> Row:
        self.known(label).see(trial)
        return row_of(label, trial, self.notes(label))
