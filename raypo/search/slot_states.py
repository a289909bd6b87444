"""What the pool knows of each slot, and a file that tells a restarted pool of it."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from raypo.search.jobs import Job, Pulse
from raypo.search.usage import Use


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
    pulse: Pulse | None = None
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
        self.current, self.since = job, now
        self.reports = {}


def remember(path: Path, slots: Mapping[str, SlotState], closing: bool) -> None:
    """Write down which worker group has which job."""
    content = {
        name: {
            "attempt": slot.attempt,
            "jobs": {index: job and dataclasses.asdict(job) for index, job in slot.jobs.items()},
            "current": slot.current and dataclasses.asdict(slot.current),
            "served": slot.served,
            "pids": slot.pids,
        }
        for name, slot in slots.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps({"closing": closing, "slots": content}), encoding="utf-8")
    os.replace(part, path)


def recall(path: Path, now: float) -> tuple[dict[str, SlotState], bool]:
    """(slots, whether the pool was closing) as last written down; nothing where no pool ran before."""
    if not path.exists():
        return {}, False
    found = json.loads(path.read_text(encoding="utf-8"))
    slots = {
        name: SlotState(
            attempt=slot["attempt"],
            jobs={int(index): _job(job) for index, job in slot["jobs"].items()},
            current=_job(slot["current"]),
            since=now,
            served=slot["served"],
            pids={int(rank): (node, pid) for rank, (node, pid) in slot["pids"].items()},
        )
        for name, slot in found["slots"].items()
    }
    return slots, bool(found["closing"])


def _job(content: dict[str, object] | None) -> Job | None:
    return None if content is None else Job(**content)  # type: ignore[arg-type]
