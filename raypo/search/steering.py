"""Steering a running search: once a second, open commands are carried out and the budget is looked at."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from raypo.errors import ClusterError, RaypoError, StorageError
from raypo.search import repeats
from raypo.search.budget import Budget
from raypo.search.commands import Command, Commands
from raypo.search.conductor import LedgerConductor
from raypo.search.folders import write_json
from raypo.search.orders import OUT_OF_BUDGET, carry_out
from raypo.search.points import enqueue_priors
from raypo.search.wall_clock import WallClock
from raypo.study import Study, build

EVERY_S = 1.0
ASKS_FOR_MORE = ("resume", "extend", "enqueue", "add_method")
"""Commands that a driver which is ending cannot do, for it runs nothing any more."""


class Slots(Protocol):
    """What steering asks of the pool; False where it does not answer."""

    def view(self) -> dict[str, dict[str, Any]]: ...

    def cancel(self, trial: str) -> bool: ...

    def forget(self, trial: str) -> bool: ...

    def check(self) -> None: ...


class Steering:
    """Carries commands out on a conductor, which it first brings to where earlier ones left the search.

    `revise` keeps a study that a method was added to; `since` is when this driver took the search over, in seconds
    since 1970.
    """

    def __init__(
        self,
        conductor: LedgerConductor,
        slots: Slots,
        revise: Callable[[Study, int], Mapping[str, int | None]],
        say: Callable[[str], None],
        since: float = 0.0,
    ) -> None:
        self._conductor, self._slots, self._revise, self._say = conductor, slots, revise, say
        self._commands = Commands(conductor.ledger)
        self._targets = dict(conductor.targets)
        self._since, self.clock = since, WallClock(self._commands)
        self._unsettled: set[str] = set()
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._stand()

    def begin(self) -> None:
        """Enqueue published points, and carry out what was asked while nobody ran the search.

        What should halt the whole search was meant for the driver that ran it.
        """
        for command in self._commands.open():
            if command.halts and command.asked < self._since:
                self._commands.close(command, "its driver had ended already", accepted=False)
        for label in self._conductor.study.methods:
            self._enqueue_priors(label)
        self.tick()

    @contextlib.contextmanager
    def following(self, live: Path) -> Iterator[None]:
        """Look once a second, from a thread of its own; `live` tells other shells where running trials are."""
        thread = threading.Thread(target=self._follow, args=(live,), name="steering", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()
            live.unlink(missing_ok=True)
            self._note_wall(now=True)
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Have running trials checkpoint and the search end; may be called from a signal handler."""
        self._conductor.stopping = True

    def tick(self) -> dict[str, Any]:
        """One look at commands, budget and slots; returns what is running."""
        conductor = self._conductor
        with conductor.lock:
            conductor.heard_of.clear()
        view = self._slots.view()
        with conductor.lock:
            self._account(view)
            self._carry_out(self._commands.open())
            if conductor.position.over:
                self._end_all()
            wanted = self._to_cancel()
            conductor.cancelled |= wanted
        gone = {name for name in conductor.cancelled - wanted if self._slots.forget(name)}
        for name in wanted:  # told again and again, for a pool that was restarted has forgotten
            self._slots.cancel(name)
        with conductor.lock:
            conductor.cancelled -= gone
            return {"at": time.time(), "spent_s": conductor.position.spent_s, "trials": _pulses(view)}

    def _follow(self, live: Path) -> None:
        while not self._stop.wait(EVERY_S):
            try:
                self._slots.check()
                write_json(live, self.tick())
            except BaseException as error:  # raised again by the driver's own thread, once its trials have ended
                self._error = self._error or error
                self._conductor.deserted = self._conductor.deserted or isinstance(error, ClusterError)
                self._conductor.stopping = True
                with self._conductor.lock:
                    wanted = self._to_cancel()
                for name in wanted:
                    self._slots.cancel(name)

    # Commands -------------------------------------------------------------------------------------------------------

    def _carry_out(self, commands: list[Command]) -> None:
        conductor = self._conductor
        self._unsettled = set()
        left = set[str]()
        for command in commands:
            about = self._about(command)
            if about in self._unsettled | left:
                continue  # it has to see what an earlier one leads to
            if conductor.stopping and command.kind in ASKS_FOR_MORE:
                left |= {about} if about is not None else set()
                continue  # who goes on with the search does it
            try:
                answer = carry_out(conductor, command, self._add)
            except RaypoError as error:
                self._commands.close(command, str(error), accepted=False)
                self._say(f"{command.kind.replace('_', '-')} is refused: {error}")
                continue
            if answer is not None:
                self._close(command, answer)
            elif about is not None:
                self._unsettled.add(about)

    def _about(self, command: Command) -> str | None:
        """The trial that a command is about, by its own name however the command writes it, or the method."""
        trial = command.arguments.get("trial")
        with contextlib.suppress(StorageError):
            return command.arguments.get("method") if trial is None else self._conductor.ledger.row(trial).name
        return trial

    def _close(self, command: Command, answer: str) -> None:
        self._commands.close(command, answer)
        self._stand()
        self._say(answer)
        if command.kind == "extend":
            for label in self._conductor.study.methods:
                self._enqueue_priors(label)
        if command.halts == "stop":
            self._conductor.stopping = True

    def _add(self, label: str, entry: Mapping[str, Any]) -> None:
        """Add a method to the study; the slots learn of it with the next job."""
        conductor = self._conductor
        written = conductor.study.written()
        methods = {**written["methods"], **({label: dict(entry)} if label not in written["methods"] else {})}
        study = build({**written, "methods": methods}, "add-method", allow_code=conductor.study.allow_code)
        revision = conductor.revision + 1
        self._targets = dict(self._revise(study, revision))
        conductor.adopt(study, revision)
        self._enqueue_priors(label)

    def _enqueue_priors(self, label: str) -> None:
        """Enqueue the published points that a method has trials for."""
        conductor, target = self._conductor, self._targets[label]
        if conductor.study.search.priors:
            room = None if target is None else target + self._commands.standing().trials.get("", 0)
            said = enqueue_priors(conductor.study, conductor.ledger, label, room)
            if said:
                self._say(said)

    # State ----------------------------------------------------------------------------------------------------------

    def _stand(self) -> None:
        conductor, now = self._conductor, self._commands.standing()
        for label, target in self._targets.items():
            conductor.targets[label] = None if target is None else target + now.more(label)
        dropping = self._unsettled & conductor.study.methods.keys()
        conductor.halted, conductor.dropped, conductor.revision = now.halted, now.dropped | dropping, now.revision
        conductor.budget = Budget.of(conductor.study, now.hours)

    def _account(self, view: Mapping[str, Mapping[str, Any]]) -> None:
        """Tell the conductor what of its budget is gone."""
        conductor, workers = self._conductor, self._conductor.budget.workers
        self.clock.pause(conductor.halted and not conductor.running)
        conductor.wall_s = self.clock.seconds
        names = {
            name: row.name for row in conductor.running.values() for name in repeats.names(conductor.study, row.name)
        }
        at_work = {slot["trial"]: slot["elapsed_s"] * workers for slot in view.values() if slot["trial"] in names}
        found = {names[job]: seconds for job, seconds in at_work.items()}
        # A job that was heard of after the slots were asked has its cost in the accounts by now.
        conductor.job_s = {name: seconds for name, seconds in found.items() if name not in conductor.heard_of}
        self._note_wall(now=False)

    def _note_wall(self, *, now: bool) -> None:
        if self._conductor.budget.wall_s is not None:
            self.clock.note(now=now)

    def _end_all(self) -> None:
        conductor = self._conductor
        for row in list(conductor.unfinished):
            conductor.end(row, "stopped", OUT_OF_BUDGET)
        for row in conductor.running.values():
            conductor.leaving.setdefault(row.name, ("stopped", OUT_OF_BUDGET))

    def _to_cancel(self) -> set[str]:
        conductor = self._conductor
        everything = conductor.stopping or conductor.halted
        rows = [row for row in conductor.running.values() if everything or row.name in conductor.leaving]
        return {name for row in rows for name in repeats.names(conductor.study, row.name)}


def _pulses(view: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    pulses = [slot["pulse"] for slot in view.values() if slot["pulse"] is not None]
    return {pulse.trial: {"fraction": pulse.fraction, "stage": pulse.stage} for pulse in pulses}
