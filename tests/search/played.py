"""A search without Ray: a played Tune and a played pool around the real ledger, conductor and steering."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from raypo.search.commands import Command, Commands
from raypo.search.conductor import LedgerConductor
from raypo.search.jobs import Job, Outcome
from raypo.search.ledger import Row
from raypo.search.searches import SearchFolder, create
from raypo.search.steering import Steering
from raypo.search.tune import FINISHED
from raypo.study import Study, build

STUDY: dict[str, Any] = {
    "name": "played",
    "model": {"path": "quickstart"},
    "data": {"source": "quickstart"},
    "training": {"lr": 1e-4, "batch_size": 8},
    "methods": {
        "dpo": {"beta": {"log_uniform": [0.01, 1.0]}},
        "ipo": {"tau": {"log_uniform": [0.01, 1.0]}, "aggregate": "sum"},
    },
    "objective": {"judge": {"kind": "rule", "function": "quickstart"}, "at": [0.5, 1.0]},
    "search": {"trials": 2, "sampler": "random", "pruner": "none"},
    "tracking": {"wandb": "disabled"},
}


def study_in(storage: Path, **search: Any) -> Study:
    return build({**STUDY, "storage": str(storage), "search": {**STUDY["search"], **search}}, "played")


def value_of(job: Job) -> float:
    return float(job.point.get("beta", job.point.get("tau", 0.5)))


def conductor_of(search: SearchFolder, concurrent: int, study: Study | None = None) -> LedgerConductor:
    """The search's conductor, asked by nobody yet."""
    return LedgerConductor(
        study or search.study(),
        search.ledger,
        search=search,
        pool="",
        namespace="",
        concurrent=concurrent,
        targets=search.settings["targets"],
    )


class Played:
    """Runs one job at a time, `cost(job)` device-seconds each; a driver that died is another one on the same folder.

    `busy` is a place where the search may be interrupted: it is called with every job before that is done.
    """

    def __init__(
        self,
        search: SearchFolder,
        study: Study | None = None,
        *,
        cost: Callable[[Job], float] = lambda _: 1.0,
        busy: Callable[[Job], None] = lambda _: None,
        outcome: Callable[[Job], Outcome | None] = lambda _: None,
        since: float = 0.0,
    ) -> None:
        self.search = search
        self._cost, self._busy, self._outcome = cost, busy, outcome
        self.conductor = conductor_of(search, 1, study)
        self.said: list[str] = []
        self.jobs: list[Job] = []
        self.events: list[tuple[str, str]] = []
        self._at_work: dict[str, dict[str, Any]] = {}
        self.cancelled: set[str] = set()
        self.conductor.listen(lambda kind, row: self.events.append((kind, row.name)))
        self.steering = Steering(self.conductor, self, search.revise, self.said.append, since)
        self.steering.begin()

    # What a pool does -----------------------------------------------------------------------------------------------

    def view(self) -> dict[str, dict[str, Any]]:
        return self._at_work

    def cancel(self, trial: str) -> bool:
        self.cancelled.add(trial)
        return True

    def forget(self, trial: str) -> bool:
        self.cancelled.discard(trial)
        return True

    def check(self) -> None:
        """Its slots never end."""

    # What Tune does -------------------------------------------------------------------------------------------------

    def run(self, idle: int = 3) -> Played:
        """Until the conductor has no more, or says "not now" `idle` times in a row."""
        number, waited = 0, 0
        while waited < idle:
            self.steering.tick()
            config = self.conductor.next(f"t{number}")
            if config == FINISHED:
                break
            waited = waited + 1 if config is None else 0
            if config is not None:
                assert isinstance(config, dict)
                self._trial(f"t{number}", config)
            number += 1
        return self

    def _trial(self, trial_id: str, config: dict[str, Any]) -> None:
        for rung in range(config["rung"], len(config["jobs"])):
            outcome = self._do(Job(**config["jobs"][rung]))
            last = rung + 1 == len(config["jobs"]) or outcome.state not in ("running", "finished")
            goes_on = self.conductor.heard(trial_id, rung, outcome)
            if not goes_on and not last:
                self.conductor.heard(trial_id, rung, outcome)  # Tune tells what it is to stop at once more
            if not goes_on or last:
                break
        self.conductor.left(trial_id, error=False)

    def _do(self, job: Job) -> Outcome:
        self.jobs.append(job)
        cost = self._cost(job)
        self._at_work = {"slot": {"trial": job.trial, "elapsed_s": cost / 2, "pulse": None}}
        self._busy(job)
        self.steering.tick()
        self._at_work = {}
        if job.trial in self.cancelled:
            return Outcome(job.trial, "stopped", 0.0, cost_s=cost / 2)
        given = self._outcome(job)
        if given is not None:
            return given
        value = value_of(job)
        figures = dict.fromkeys(("objective", "win_rate", "ci_low", "ci_high"), value) | {"n": 8, "kl": 0.0}
        state = "finished" if job.until >= 1 else "running"
        return Outcome(job.trial, state, job.until, 10, {**figures, "length": 1.0}, cost)

    # What a test looks at -------------------------------------------------------------------------------------------

    def send(self, kind: Any, **arguments: Any) -> Command:
        """As another shell does: over a connection of its own."""
        return Commands(self.search.ledger).send(kind, **arguments)

    def answer(self, command: Command) -> Command:
        return next(c for c in Commands(self.search.ledger).all() if c.id == command.id)

    @property
    def rows(self) -> dict[str, Row]:
        return {row.name: row for row in self.search.ledger.rows()}

    @property
    def states(self) -> dict[str, str]:
        return {name: row.state for name, row in self.rows.items()}


def new(storage: Path, **search: Any) -> SearchFolder:
    return create(study_in(storage, **search))
