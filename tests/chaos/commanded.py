"""Send random commands to searches whose parts are killed, and check that what was answered yes was done, and once.

python tests/chaos/commanded.py --searches 3 --minutes 4 --seed 0

For some minutes each search is enqueued to, extended, paused, stopped and resumed as a whole and trial by trial, while
a driver, a slot's worker, its controller, the pool, a trial's proxy or a node dies now and then. Then it is left to
end. The result is printed as JSON; the exit code is 1 where something is wrong with one.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from checking import INTERVAL, lost_steps, reports
from killing import KINDS, Grounds, begin, grounds

TRIALS = 12
STUCK_S = 240.0
STEP_S = 0.15
METHODS = ("dpo", "simpo")
ASKED = ("enqueue", "extend", "pause one", "resume one", "stop one", "pause", "resume", "stop")
WEIGHTS = (2, 1, 2, 2, 1, 1, 1, 1)
"""How often each is asked."""


class Disturbed:
    """One search, its driver at present, and what was done to it."""

    def __init__(self, ground: Grounds, storage: Path, seed: int) -> None:
        self.ground, self.storage, self.seed, self.dice = ground, storage, seed, random.Random(seed)
        self.folder = storage / f"commanded-{seed}"
        self.folder.mkdir(parents=True)
        (self.folder / "step_s").write_text(str(STEP_S))
        self.kills, self.exits = Counter[str](), Counter[int]()
        self.driver = self._begin()
        self._seen: Any = None
        self._moved = time.monotonic()

    def run(self, minutes: float) -> dict[str, Any]:
        """Disturb it for some minutes, then let it end; what came of it."""
        until = time.monotonic() + 60 * minutes
        while True:
            try:
                self.driver.wait(self.dice.uniform(0.3, 3.0))
            except subprocess.TimeoutExpired:
                if self._begun():
                    self._disturb() if time.monotonic() < until else self._settle()
            else:
                self.exits[self.driver.returncode] += 1
                if time.monotonic() > until and self._complete():
                    break
                if self._begun():
                    self._settle()
                self.driver = self._begin()
            self._look()
        said = Counter((command.kind, command.accepted) for command in self.commands.all())
        return {
            "kills": dict(self.kills),
            "exits": dict(self.exits),
            "accepted": {kind: count for (kind, accepted), count in said.items() if accepted},
            "refused": {kind: count for (kind, accepted), count in said.items() if not accepted},
            "states": dict(Counter(row.state for row in self.rows)),
            "problems": self._problems(),
        }

    @property
    def commands(self) -> Any:
        from raypo.search.commands import Commands
        from raypo.search.searches import opened

        return Commands(opened(str(self.storage), self.folder.name).ledger)

    @property
    def rows(self) -> list[Any]:
        from raypo.search.searches import opened

        return opened(str(self.storage), self.folder.name).ledger.rows()

    def _begin(self) -> subprocess.Popen[bytes]:
        return begin(self.ground.address, self.storage, self.folder.name, self.seed, TRIALS, real=False)

    def _begun(self) -> bool:
        return any(self.folder.glob("trials/*"))

    def _disturb(self) -> None:
        if self.dice.random() < 0.5:
            self._command(self.dice.choices(ASKED, WEIGHTS)[0])
        if self.dice.random() < 0.35:
            kind = self.dice.choice(KINDS)
            self.kills[kind] += self.ground.kill(kind, self.driver, self.dice)

    def _command(self, asked: str) -> None:
        kind, _, one = asked.partition(" ")
        if kind == "enqueue":
            values = {"beta": round(self.dice.uniform(0.02, 0.9), 6)}
            self.commands.send(kind, method=self.dice.choice(METHODS), values=values)
        elif kind == "extend":
            self.commands.send(kind, trials=1, hours=0.0)
        else:
            able = ("paused", "pruned", "stopped") if kind == "resume" else ("running", "paused")
            of = [row.name for row in self.rows if row.state in able] or [self.rows[0].name]
            self.commands.send(kind, trial=self.dice.choice(of) if one else None)

    def _settle(self) -> None:
        """Have what is paused go on."""
        commands = self.commands
        asked = {command.arguments.get("trial", "") for command in commands.open() if command.kind == "resume"}
        paused = [row.name for row in self.rows if row.state == "paused"]
        for trial in [*([None] if commands.standing().halted else []), *paused]:
            if trial not in asked:
                commands.send("resume", trial=trial)

    def _complete(self) -> bool:
        commands, rows = self.commands, self.rows
        drawn = Counter(row.label for row in rows if row.state != "waiting")
        wanted = {label: TRIALS // 2 + commands.standing().more(label) for label in METHODS}
        return not commands.open() and all(row.over for row in rows) and drawn == wanted

    def _look(self) -> None:
        seen = [(row.name, row.state, len(row.evaluations)) for row in self.rows] if self._begun() else None
        if seen != self._seen:
            self._seen, self._moved = seen, time.monotonic()
        if time.monotonic() - self._moved > STUCK_S:
            self.driver.kill()
            raise SystemExit(f"{self.folder}: stuck; {self.folder.name}.log and the journal say where")

    def _problems(self) -> list[str]:
        rows, commands = self.rows, self.commands
        found = [f"{name}: {count} rows" for name, count in Counter(row.name for row in rows).items() if count > 1]
        found += [f"{r.name}: {r.state}, {r.reason}" for r in rows if r.state not in ("finished", "pruned", "stopped")]
        told = Counter(reports(self.folder / "ledger.journal"))
        found += [f"trial {trial}: {key} told {count} times" for (trial, key), count in told.items() if count > 1]
        for log in self.folder.glob("trials/*/work.log"):
            found += [f"{log.parent.name}: {lost} steps lost" for lost in lost_steps(log) if lost > INTERVAL]
        for row in (row for row in rows if row.state == "finished"):
            steps = {int(line) for line in (self.folder / "trials" / row.name / "work.log").read_text().split()}
            if len(steps) != max(steps) + 1 - min(steps) or len(row.evaluations) != 3:
                found.append(f"{row.name}: steps {sorted(steps)}, {len(row.evaluations)} evaluations")
        tried = Counter((row.label, row.params.get("beta")) for row in rows)
        for command in (each for each in commands.all() if each.kind == "enqueue" and each.accepted):
            point = (command.arguments["method"], command.arguments["values"]["beta"])
            if tried[point] != 1:
                found.append(f"{point}: was enqueued, and {tried[point]} trials have it")
        return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--storage", type=Path)
    words = parser.parse_args()
    storage = words.storage or Path(tempfile.mkdtemp(prefix="raypo-commanded-"))
    sound = True
    with grounds() as ground:
        for seed in range(words.seed, words.seed + words.searches):
            found = Disturbed(ground, storage, seed).run(words.minutes)
            print(json.dumps(found, indent=1), flush=True)
            sound = sound and not found["problems"]
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
