"""Commands from other shells: they go through the ledger, and the driver carries each out exactly once.

A command is a fact of the ledger, appended under an id of its own. The driver closes it in one write when its effect is
in the ledger; one that is still open after a crash is carried out by the next driver, and every effect bears its
command's id, so that doing it again changes nothing. What the closed ones add up to is the search's standing.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from raypo.errors import StudyError
from raypo.search.ledger import CONTROL, Ledger

Kind = Literal["stop", "pause", "resume", "enqueue", "extend", "add_method", "drop_method"]
KINDS: tuple[Kind, ...] = ("stop", "pause", "resume", "enqueue", "extend", "add_method", "drop_method")


@dataclass(frozen=True)
class Command:
    """What somebody asked of a search; ids sort by the time of asking."""

    id: str
    kind: Kind
    arguments: dict[str, Any]
    answer: str | None = None
    """What came of it; None while it is open."""
    accepted: bool = False

    @property
    def halts(self) -> Literal["stop", "pause"] | None:
        """Which of both it asks of the whole search."""
        return self.kind if self.kind in ("stop", "pause") and self.arguments["trial"] is None else None

    @property
    def asked(self) -> float:
        """When, in seconds since 1970."""
        return int(self.id.split("-")[0]) / 1e9


@dataclass(frozen=True)
class Standing:
    """What the accepted commands add up to."""

    trials: dict[str, int] = field(default_factory=dict)
    """Trials on top of the study's, by method; "" is for every method."""
    hours: float = 0.0
    """Hours on top of the study's budget."""
    dropped: frozenset[str] = frozenset()
    halted: bool = False
    revision: int = 0
    """How often a method was added."""

    def more(self, label: str) -> int:
        """Trials that a method has on top of the study's."""
        return self.trials.get(label, 0) + self.trials.get("", 0)


class Commands:
    """All commands of one search."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def send(self, kind: Kind, **arguments: Any) -> Command:
        """Append a command for the driver."""
        command = Command(f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}", kind, arguments)
        self._write(f"command:{command.id}", {"kind": kind, "arguments": arguments})
        return command

    def close(self, command: Command, answer: str, accepted: bool = True) -> None:
        """Say what came of a command; it is never carried out again."""
        self._write(f"answer:{command.id}", {"answer": answer, "accepted": accepted})

    def all(self) -> list[Command]:
        """Every command in the order of asking."""
        found = self._ledger.notes(CONTROL)
        ids = sorted(key.removeprefix("command:") for key in found if key.startswith("command:"))
        return [Command(i, **found[f"command:{i}"], **found.get(f"answer:{i}", {})) for i in ids]

    def open(self) -> list[Command]:
        """The commands that nobody has carried out yet."""
        return [command for command in self.all() if command.answer is None]

    def standing(self) -> Standing:
        """What the accepted commands add up to."""
        return standing(command for command in self.all() if command.accepted)

    def wall_s(self) -> float:
        """Seconds that drivers have run this search, up to each one's last note."""
        found = self._ledger.notes(CONTROL)
        return sum(float(value) for key, value in found.items() if key.startswith("wall:"))

    def note_wall(self, driver: str, seconds: float) -> None:
        """Note how long a driver has run."""
        self._write(f"wall:{driver}", seconds)

    def _write(self, key: str, value: Any) -> None:
        self._ledger.study(CONTROL).set_user_attr(key, value)


def standing(accepted: Iterable[Command]) -> Standing:
    """Fold commands, in the order of asking."""
    trials: dict[str, int] = {}
    hours, halted, revision = 0.0, False, 0
    dropped: set[str] = set()
    for command in accepted:
        match command.kind, command.arguments:
            case "extend", {"trials": count, "hours": more}:
                trials[""] = trials.get("", 0) + count
                hours, halted = hours + more, False
            case "enqueue", {"method": label}:
                trials[label] = trials.get(label, 0) + 1
            case "drop_method", {"method": label}:
                dropped.add(label)
            case "add_method", {"method": label}:
                dropped.discard(label)
                revision += 1
            case "pause", {"trial": None}:
                halted = True
            case "resume", _:
                halted = False
    return Standing(trials, hours, frozenset(dropped), halted, revision)


def wait_for(commands: Commands, command: Command, timeout_s: float) -> str | None:
    """The driver's answer, or None when it takes longer.

    Raises:
        StudyError: the driver refused the command.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        now = next(c for c in commands.all() if c.id == command.id)
        if now.answer is not None:
            if not now.accepted:
                raise StudyError(now.answer)
            return now.answer
        time.sleep(0.2)
    return None
