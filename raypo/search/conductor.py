"""The conductor: which trial runs next, what an evaluation means for it, and what the ledger is told.

Tune asks it from the driver's main thread, commands reach it from another one; a lock keeps them apart.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping
from typing import Any

from raypo.search import repeats
from raypo.search.budget import Accounts, Budget, Flight, Position
from raypo.search.drawing import Drawing
from raypo.search.jobs import Job, Outcome
from raypo.search.ledger import Ledger, Row
from raypo.search.pruning import pruned, undecided
from raypo.search.rivals import racing
from raypo.search.searches import SearchFolder
from raypo.search.tune import FINISHED
from raypo.study import Study

Listener = Callable[[str, Row], None]
"""Told ("drawn" | "evaluated" | "ended", row) after the ledger knows it."""


class LedgerConductor:
    """Answers Tune from the ledger. Methods advance evenly: the one furthest behind is next.

    `targets` says how many trials a method gets, None for as many as the budget holds. Commands set `stopping` (no
    trial goes on), `halted` (none for now), `dropped` (methods without further trials) and `leaving` (what becomes of
    a running trial once its slot lets go of it: a state and the reason). `hindrance` is what the search stopped at,
    `heard_of` the trials with a job that ended since somebody emptied it; `deserted`: nobody is left who ends one.
    """

    def __init__(
        self,
        study: Study,
        ledger: Ledger,
        *,
        search: SearchFolder,
        pool: str,
        namespace: str,
        concurrent: int,
        targets: Mapping[str, int | None],
    ) -> None:
        self.study, self.ledger, self.targets, self.search = study, ledger, dict(targets), search
        self._pool, self._namespace, self.concurrent = pool, namespace, concurrent
        self._drawing = Drawing(study, ledger, concurrent)
        rows = ledger.rows()
        self.unfinished = [row for row in rows if row.state == "running"]
        self.running: dict[str, Row] = {}
        self.accounts = Accounts(rows)
        self.budget = Budget.of(study, 0.0)
        self.wall_s, self.job_s = 0.0, dict[str, float]()
        self.heard_of: set[str] = set()
        self.stopping = self.halted = self.deserted = False
        self.hindrance: str | None = None
        self.dropped: frozenset[str] = frozenset()
        self.leaving: dict[str, tuple[str, str]] = {}
        self.cancelled: set[str] = set()
        self.revision = 0
        self.lock = threading.RLock()
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)

    # What Tune asks -------------------------------------------------------------------------------------------------

    def next(self, trial_id: str) -> dict[str, Any] | str | None:
        with self.lock:
            if self._lost() or self.stopping:
                return FINISHED
            if self.halted:
                return None
            row = self._goes_on() or self._drawing.draw(self.position)
            if row is None:
                return None if self.open else FINISHED
            if row.over:  # enqueued, and no point has its values
                self._end(row, row.state)
                return None
            jobs = racing(self.study, self.ledger, row, repeats.jobs_of(self.study, self.job(row)))
            rung = len(row.evaluations)
            if rung == len(self.study.objective.at):
                if not self._repeated(row):
                    self._end(row, "finished")
                    return None
                rung += len(repeats.stored(row))
                if rung == len(jobs):
                    self._average(row)
                    return None
            elif rung and self._prunes(row):
                return None
            self.running[trial_id] = row
            self.search.push_journal()  # else a driver elsewhere might draw another point under this name
            self._tell("drawn", row)
            return {
                "pool": self._pool,
                "namespace": self._namespace,
                "jobs": [dataclasses.asdict(job) for job in jobs],
                "rung": rung,
            }

    def heard(self, trial_id: str, rung: int, outcome: Outcome) -> bool:
        with self.lock:
            if self._lost():
                return False
            row = self.running[trial_id]
            self.job_s.pop(row.name, None)
            self.heard_of.add(row.name)
            if self.ledger.row(row.name).over:
                return False  # Tune tells what ended a trial once more where that had jobs left
            self.search.pull_trials(outcome.trial)
            if outcome.hinders:
                self.hinder(outcome.reason)
            if outcome.state == "stopped":
                self._let_go(row, outcome)
                return True
            if rung < len(row.evaluations) and outcome.state == "running":
                return True  # Tune began the trial anew, and its slot has told this before
            if rung >= len(self.study.objective.at):
                return self._heard_repeat(trial_id, rung - len(self.study.objective.at), outcome)
            if outcome.state in ("failed", "diverged"):
                self._end(row, outcome.state, outcome.reason, outcome.cost_s)
                return True
            row = self.running[trial_id] = self.ledger.record(row, rung, outcome)
            self.accounts.update(row)
            if outcome.state == "finished" and self._repeated(row):
                return True
            self._tell("evaluated", row)
            if outcome.state == "finished":
                self._end(row, "finished")
                return False
            if self._undecided(row):
                self.unfinished.append(row)  # its place on the slot is free until what it waits for is told
                return False
            return not self._prunes(row)

    def left(self, trial_id: str, *, error: bool) -> None:
        with self.lock:
            row = self.running.pop(trial_id, None)
            if row is None or self._lost():
                return
            self.job_s.pop(row.name, None)
            now = self.ledger.row(row.name)
            waits = any(other.name == now.name for other in self.unfinished)
            if error and now.state == "running" and not self.stopping and not waits:
                self.unfinished.append(now)

    # Trials ---------------------------------------------------------------------------------------------------------

    def job(self, row: Row, until: float = 1.0) -> Job:
        """The concrete, complete job that a row of the ledger stands for."""
        point = {**self.study.fixed(row.label), **row.params}
        return Job(row.name, row.label, point, row.seed, until, revision=self.revision)

    def adopt(self, study: Study, revision: int) -> None:
        """Go on with a study that has a method more."""
        self.study, self.revision = study, revision
        self._drawing.adopt(study)

    def end(self, row: Row, state: str, reason: str) -> None:
        """Close a trial that no slot works at."""
        self.unfinished = [other for other in self.unfinished if other.name != row.name]
        self._end(row, state, reason)

    def hinder(self, reason: str | None) -> None:
        """Have the search stop at what would stop every trial; all of them go on from where they are with a resume."""
        with self.lock:
            self.stopping, self.hindrance = True, self.hindrance or reason

    @property
    def position(self) -> Position:
        """Where the search stands in its budget."""
        under_way = {row.name: row for row in [*self.unfinished, *self.running.values()]}.values()
        flights = [Flight(row.label, row.cost_s, self.job_s.get(row.name, 0.0)) for row in under_way]
        counts = self._drawing.counts(self.targets, self.dropped)
        return Position(self.budget, self.accounts, tuple(flights), counts, self.wall_s)

    def _lost(self) -> bool:
        """Whether another driver has the search: no trial goes on, and the ledger is told nothing."""
        held = self.search.copy.held
        lost = held is not None and held.lost
        self.stopping = self.stopping or lost
        return lost

    def _goes_on(self) -> Row | None:
        """A trial that was begun and waits to go on; a slot may still have to let go of it."""
        for row in self.unfinished:
            if self.cancelled.isdisjoint(repeats.names(self.study, row.name)) and not self._undecided(row):
                self.unfinished.remove(row)
                return self.ledger.row(row.name)
        return None

    @property
    def open(self) -> bool:
        """Whether trials run, wait to go on, or are still to be drawn."""
        position = self.position
        return bool(self.running or self.unfinished) or any(position.may_start(label) for label in position.counts)

    def _undecided(self, row: Row) -> bool:
        return undecided(self.study, self.ledger, row)

    def _prunes(self, row: Row) -> bool:
        """Ask the pruner about a trial's newest evaluation, after a crash again, and end the trial if it says so."""
        reason = pruned(self.study, self.ledger, row, self.search.copy)
        if reason is not None:
            self._end(row, "pruned", reason)
        return reason is not None

    # Seeds ----------------------------------------------------------------------------------------------------------

    def _repeated(self, row: Row) -> bool:
        return repeats.decided(self.study, self.ledger, row)

    def _heard_repeat(self, trial_id: str, index: int, outcome: Outcome) -> bool:
        row = self.running[trial_id]
        heard, further = len(repeats.stored(row)), self.study.search.repeats.seeds - 1
        if index < heard:
            return True  # Tune began the trial anew, and its slot has told this before
        if outcome.state != "finished":
            reason = f"seed {heard + 2} of {further + 1}: {outcome.reason}"
            self._end(row, outcome.state, reason, outcome.cost_s)
            return True
        row = self.running[trial_id] = repeats.record(self.ledger, row, outcome)
        self.accounts.update(row)
        if heard + 1 == further:
            self._average(row)
        return True

    def _average(self, row: Row) -> None:
        """All seeds of a trial are trained: their average is its value."""
        if "average" not in row.attributes:
            self.search.pull_trials(*repeats.names(self.study, row.name))  # a driver elsewhere may have heard some
            row = repeats.settle(self.ledger, row, self.search.path)
            self._tell("evaluated", row)
        self._end(row, "finished")
        repeats.drop_models(self.study, self.search.copy, row.name)

    # Ends -----------------------------------------------------------------------------------------------------------

    def _let_go(self, row: Row, outcome: Outcome) -> None:
        """A slot has checkpointed a cancelled trial."""
        state, reason = self.leaving.pop(row.name, ("running", ""))
        if state == "stopped":
            self._end(row, state, reason, outcome.cost_s)
            return
        self.ledger.spend(row, outcome.cost_s)
        if state == "paused":
            self.ledger.mark(row, state, reason)
        elif not self.stopping:
            self.unfinished.append(row)
        self.accounts.update(self.ledger.row(row.name))

    def _end(self, row: Row, state: str, reason: str | None = None, cost_s: float = 0.0) -> None:
        row = self.ledger.end(row, state, reason, cost_s)
        self.leaving.pop(row.name, None)
        self.accounts.update(row)
        if row.state == "finished":
            self.accounts.finished(row)
        self._tell("ended", row)

    def _tell(self, event: str, row: Row) -> None:
        for listener in self._listeners:
            listener(event, row)
