"""The conductor: which trial runs next, what an evaluation means for it, and what the ledger is told."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import optuna

from raypo.search.constraints import Expression, Rules
from raypo.search.jobs import Job, Outcome
from raypo.search.ledger import Ledger, Row
from raypo.search.pruners import make_pruner
from raypo.search.samplers import RepeatableSampler, make_sampler, seed_of
from raypo.search.tune import FINISHED
from raypo.study import Study

Listener = Callable[[str, Row], None]
"""Told ("drawn" | "evaluated" | "ended", row) after the ledger knows it."""


class LedgerConductor:
    """Answers Tune from the ledger. Methods advance evenly: the one with the fewest trials is next."""

    def __init__(
        self, study: Study, ledger: Ledger, *, pool: str, namespace: str, concurrent: int, targets: dict[str, int]
    ) -> None:
        self.study, self.ledger, self.targets = study, ledger, targets
        self._pool, self._namespace = pool, namespace
        self._samplers = {label: self._sampler(label, concurrent) for label in study.methods}
        self._pruner = make_pruner(study.search.pruner, study.objective.at)
        self._reissue = [row for label in study.methods for row in ledger.rows(label) if row.state == "running"]
        self._running: dict[str, Row] = {}
        self._listeners: list[Listener] = []
        self.stopping = False

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)

    # What Tune asks -------------------------------------------------------------------------------------------------

    def next(self, trial_id: str) -> dict[str, Any] | str | None:
        if self.stopping:
            return FINISHED
        row = self._reissue.pop(0) if self._reissue else self._draw()
        if row is None:
            return None if self._running or self._wanting() else FINISHED
        if len(row.evaluations) >= len(self.study.objective.at):
            self._tell("ended", self.ledger.end(row, "finished"))
            return None
        self._running[trial_id] = row
        self._tell("drawn", row)
        return {
            "pool": self._pool,
            "namespace": self._namespace,
            "job": dataclasses.asdict(self.job(row)),
            "at": list(self.study.objective.at),
            "rung": len(row.evaluations),
        }

    def heard(self, trial_id: str, rung: int, outcome: Outcome) -> bool:
        row = self._running[trial_id]
        if outcome.state in ("running", "finished"):
            row = self._running[trial_id] = self.ledger.record(row, rung, outcome)
            self._tell("evaluated", row)
        if outcome.over:
            self._tell("ended", self.ledger.end(row, outcome.state, outcome.reason, outcome.cost_s))
            return True
        if self._pruned(row):
            self._tell("ended", self.ledger.end(row, "pruned", f"{self.study.search.pruner} at {outcome.fraction:.0%}"))
            return False
        return True

    def left(self, trial_id: str, *, error: bool) -> None:
        row = self._running.pop(trial_id, None)
        if row is not None and error and not self.ledger.row(row.name).over and not self.stopping:
            self._reissue.append(self.ledger.row(row.name))

    # Trials ---------------------------------------------------------------------------------------------------------

    def job(self, row: Row, until: float = 1.0) -> Job:
        """The concrete, complete job that a row of the ledger stands for."""
        point = {**self.study.fixed(row.label), **row.params}
        return Job(row.name, row.label, point, row.seed, until)

    @property
    def running(self) -> list[Row]:
        return list(self._running.values())

    def _wanting(self) -> bool:
        return any(count < self.targets[label] for label, count in self._counts())

    def _counts(self) -> Iterator[tuple[str, int]]:
        for label in self.study.methods:
            trials = self.ledger.study(label).get_trials(deepcopy=False)
            yield label, sum(t.state != optuna.trial.TrialState.WAITING for t in trials)

    def _draw(self) -> Row | None:
        order = sorted(self._counts(), key=lambda item: item[1])
        for label, count in order:
            if count >= self.targets[label]:
                continue
            trials = self.ledger.study(label).get_trials(deepcopy=False)
            sampler = self._samplers[label]
            if sampler.waits_for(count, trials):
                continue
            return self.ledger.ask(label, sampler, seed_of(self.study.search.seed, f"{label}/training", count))
        return None

    def _sampler(self, label: str, concurrent: int) -> RepeatableSampler:
        space = {name: axis.distribution() for name, axis in self.study.space(label).items()}
        settings = self.study.search
        return make_sampler(settings.sampler, settings.seed, space, rules=rules_of(self.study, label), lag=concurrent)

    def _pruned(self, row: Row) -> bool:
        values = [e.get("objective", math.nan) for e in row.evaluations]
        if not values or math.isnan(values[-1]):
            return False
        trial = self.ledger.frozen(row)
        return bool(self._pruner.prune(self.ledger.study(row.label), trial))

    def _tell(self, event: str, row: Row) -> None:
        for listener in self._listeners:
            listener(event, row)


def rules_of(study: Study, label: str) -> Rules:
    """The study's constraints that concern a method: those whose every name it searches."""
    searched = study.space(label)
    words = {str(v) for space in searched.values() for v in space.values if isinstance(v, str)}
    known = {name for other in study.methods for name in study.axes(other)}
    rules = [Expression.parse(text, known, words) for text in study.search.constraints]
    return Rules(constraints=tuple(rule for rule in rules if rule.names <= searched.keys()))
