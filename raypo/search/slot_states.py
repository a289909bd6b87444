"""What the pool knows of each slot, and files that tell a restarted pool of it."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raypo.search.jobs import Fault, Job, Pulse
from raypo.search.usage import Use

_CLOSING = "closing"


@dataclass
class SlotState:
    """One slot: its worker group, the last jobs by number (None: leave), and what it is at."""

    attempt: str
    jobs: dict[int, Job | None] = field(default_factory=dict)
    current: Job | None = None
    since: float = 0.0
    held: str | None = None
    held_until: float = 0.0
    served: int = 0
    reports: dict[int, str | None] = field(default_factory=dict)
    faults: set[Fault] = field(default_factory=set)
    pulse: Pulse | None = None
    saved: float = 0.0
    """Fraction of the schedule of its job's newest checkpoint."""
    busy_s: float = 0.0
    leaving: bool = False
    """A node of it will be taken away."""
    pids: dict[int, tuple[str, int]] = field(default_factory=dict)
    """(Ray node, process) of each rank."""
    uses: dict[int, Use] = field(default_factory=dict)

    def give(self, index: int, job: Job | None, now: float) -> None:
        """Hand out the index-th job; a rank may be one job behind the others."""
        self.jobs[index] = job
        self.jobs.pop(index - 2, None)
        self.current, self.since, self.saved = job, now, 0.0
        self.reports, self.faults = {}, set()


def remember(folder: Path, name: str, slot: SlotState) -> None:
    """Write down which worker group of a slot has which job; a file for each slot, for there may be many of them."""
    content = {
        "attempt": slot.attempt,
        "jobs": {index: job and dataclasses.asdict(job) for index, job in slot.jobs.items()},
        "current": slot.current and dataclasses.asdict(slot.current),
        "served": slot.served,
        "pids": slot.pids,
    }
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{name}.part"
    part.write_text(json.dumps(content), encoding="utf-8")
    os.replace(part, folder / f"{name}.json")


def forget(folder: Path, name: str) -> None:
    """A slot has no worker group any more."""
    (folder / f"{name}.json").unlink(missing_ok=True)


def remember_closing(folder: Path) -> None:
    """The pool gives out nothing any more."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _CLOSING).touch()


def recall(folder: Path, now: float) -> tuple[dict[str, SlotState], bool]:
    """(slots, whether the pool was closing) as last written down; nothing where no pool ran before."""
    slots = {path.stem: _slot(json.loads(path.read_text(encoding="utf-8")), now) for path in folder.glob("*.json")}
    return slots, (folder / _CLOSING).exists()


def _slot(content: dict[str, Any], now: float) -> SlotState:
    return SlotState(
        attempt=content["attempt"],
        jobs={int(index): _job(job) for index, job in content["jobs"].items()},
        current=_job(content["current"]),
        since=now,
        served=content["served"],
        pids={int(rank): (node, pid) for rank, (node, pid) in content["pids"].items()},
    )


def _job(content: dict[str, Any] | None) -> Job | None:
    return None if content is None else Job(**content)
