"""What must hold after chaos: the promises of a search, checked against its journal and its trials' own logs."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INTERVAL = 2
"""Steps between two checkpoints of stubbed training."""
ENDED = ("finished", "pruned")


@dataclass(frozen=True)
class Faults:
    """How often each promise was broken; all zero is what raypo promises."""

    lost_trials: int = 0
    lost_reports: int = 0
    double_reports: int = 0
    finished_run_again: int = 0
    too_much_work_lost: int = 0
    rows_unlike: int = 0

    def __add__(self, other: Faults) -> Faults:
        return Faults(*(mine + theirs for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def none(self) -> bool:
        return not any(vars(self).values())


def finished(folder: Path) -> dict[str, float]:
    """Trials that the ledger calls finished or pruned, and when their log was last written."""
    done = [row for row in table(folder) if row["state"] in ENDED] if (folder / "search.json").exists() else []
    logs = {path.parent.name: path for path in folder.glob("trials/*/*") if path.name in ("work.log", "metrics.jsonl")}
    return {row["name"]: logs[row["name"]].stat().st_mtime for row in done if row["name"] in logs}


def table(folder: Path) -> list[dict[str, Any]]:
    """The final table, everything but costs."""
    from raypo.search.ledger import Ledger

    rows = Ledger(folder / "ledger.journal", folder.name).rows()
    own = ("cost_s",)
    return sorted(
        (
            {
                "name": row.name,
                "state": row.state,
                "params": row.params,
                "seed": row.seed,
                "evaluations": [{k: v for k, v in e.items() if k not in own} for e in row.evaluations],
            }
            for row in rows
        ),
        key=lambda row: row["name"],
    )


def check(folder: Path, calm: Path, trials: int, ended_at: dict[str, float]) -> Faults:
    """Compare a disturbed search with its undisturbed twin; `ended_at` is what `finished` said before the last kill."""
    rows, twin = table(folder), table(calm)
    told = Counter(reports(folder / "ledger.journal"))
    again = finished(folder)
    return Faults(
        # Real training may diverge; that the undisturbed search has the same trial diverge is seen from the rows.
        lost_trials=trials - sum(row["state"] in (*ENDED, "diverged") for row in rows),
        lost_reports=sum(len(row["evaluations"]) for row in twin) - sum(len(row["evaluations"]) for row in rows),
        double_reports=sum(count - 1 for count in told.values()),
        finished_run_again=sum(again.get(name) != stamp for name, stamp in ended_at.items()),
        too_much_work_lost=sum(lost > INTERVAL for log in folder.glob("trials/*/work.log") for lost in lost_steps(log)),
        rows_unlike=sum(mine != theirs for mine, theirs in zip(rows, twin, strict=False)) + abs(len(rows) - len(twin)),
    )


def repeated(folder: Path) -> tuple[int, int]:
    """(steps that were taken more than once, all steps taken) of stubbed training."""
    steps = [log.read_text().split() for log in folder.glob("trials/*/work.log")]
    return sum(len(taken) - len(set(taken)) for taken in steps), sum(map(len, steps))


def lost_steps(log: Path) -> list[int]:
    """At every fresh start, how many steps had to be taken again."""
    steps = [int(line) for line in log.read_text().split()]
    return [before + 1 - after for before, after in itertools.pairwise(steps) if after <= before]


def reports(journal: Path) -> list[tuple[int, str]]:
    entries = (json.loads(line) for line in journal.read_text().splitlines())
    return [
        (entry["trial_id"], key)
        for entry in entries
        if "trial_id" in entry
        for key in entry.get("user_attr", {})
        if key.startswith("evaluation:")
    ]
