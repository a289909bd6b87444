"""Kill parts of running searches at random moments, let them go on, and check that nothing was lost or done twice.

python tests/chaos/harness.py --kills 200            stubbed training, 30 trials a search
python tests/chaos/harness.py --kills 20 --real      real training
python tests/chaos/harness.py --kills 12 --kinds driver,pool --trials 8 --seed 3

Searches follow each other, every one with another seed, until that many kills have been made. Each is compared with an
undisturbed search of the same seed. The result is printed as JSON; the exit code is 1 where a promise was broken.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from checking import Faults, check, finished, repeated
from killing import KINDS, Grounds, begin, grounds

STUCK_S = 600.0


@dataclass
class Tally:
    """What chaos did and what it found."""

    kills: Counter[str] = field(default_factory=Counter)
    searches: int = 0
    exits: Counter[int] = field(default_factory=Counter)
    faults: Faults = field(default_factory=Faults)
    repeated_steps: int = 0
    steps: int = 0

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "kills": dict(self.kills), "exits": dict(self.exits), "faults": vars(self.faults)}


@dataclass(frozen=True)
class Plan:
    """One search and how it is disturbed: kills at random gaps, in seconds, drawn from [low, high)."""

    storage: Path
    trials: int
    real: bool
    kinds: tuple[str, ...]
    gap_s: tuple[float, float]
    step_s: float


def calm(plan: Plan, ground: Grounds, seed: int) -> Path:
    """The undisturbed twin, made at full speed."""
    name = f"calm-{seed}"
    begin(ground.address, plan.storage, name, seed, plan.trials, plan.real).wait(STUCK_S)
    return plan.storage / name


def disturbed(plan: Plan, ground: Grounds, seed: int, kills: int, dice: random.Random, tally: Tally) -> Path:
    """Run one search to its end, killing up to `kills` things on the way."""
    folder = plan.storage / f"chaos-{seed}"
    folder.mkdir(parents=True)
    (folder / "step_s").write_text(str(plan.step_s))
    driver, done, known = _begin(plan, ground, seed), 0, dict[str, float]()
    deck = list[str]()
    last = time.monotonic()
    while True:
        try:
            driver.wait(dice.uniform(*plan.gap_s))
        except subprocess.TimeoutExpired:
            if done < kills and _begun(folder):
                known |= {name: at for name, at in finished(folder).items() if name not in known}
                deck = deck or dice.sample(plan.kinds, len(plan.kinds))
                kind = deck.pop()
                if ground.kill(kind, driver, dice):
                    tally.kills[kind] += 1
                    done, last = done + 1, time.monotonic()
            if time.monotonic() - last > STUCK_S:
                driver.kill()
                raise SystemExit(f"{folder}: stuck; {folder.name}.log and the journal say where") from None
        if driver.poll() == 0:
            break
        if driver.poll() is not None:
            tally.exits[driver.returncode] += 1
            driver = _begin(plan, ground, seed)
    found = check(folder, plan.storage / f"calm-{seed}", plan.trials, known)
    more, all_ = repeated(folder)
    tally.faults, tally.searches = tally.faults + found, tally.searches + 1
    tally.repeated_steps, tally.steps = tally.repeated_steps + more, tally.steps + all_
    return folder


def _begin(plan: Plan, ground: Grounds, seed: int) -> subprocess.Popen[bytes]:
    return begin(ground.address, plan.storage, f"chaos-{seed}", seed, plan.trials, plan.real)


def _begun(folder: Path) -> bool:
    return any(folder.glob("trials/*"))


def run(plan: Plan, kills: int, seed: int) -> Tally:
    """Search after search until enough was killed."""
    tally = Tally()
    with grounds() as ground:
        while sum(tally.kills.values()) < kills:
            calm(plan, ground, seed)
            dice = random.Random(seed)
            disturbed(plan, ground, seed, kills - sum(tally.kills.values()), dice, tally)
            print(json.dumps(tally.as_dict()), file=sys.stderr, flush=True)
            seed += 1
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--gap", type=float, nargs=2, default=(0.5, 6.0), help="seconds between kills, from and to")
    parser.add_argument("--step-s", type=float, default=0.2, help="how long a stubbed step takes")
    parser.add_argument("--storage", type=Path)
    words = parser.parse_args()
    storage = words.storage or Path(tempfile.mkdtemp(prefix="raypo-chaos-"))
    storage.mkdir(parents=True, exist_ok=True)
    kinds = tuple(words.kinds.split(","))
    plan = Plan(storage, words.trials, words.real, kinds, tuple(words.gap), words.step_s)
    began = time.monotonic()
    tally = run(plan, words.kills, words.seed)
    print(
        json.dumps({**tally.as_dict(), "seconds": round(time.monotonic() - began), "storage": str(storage)}, indent=1)
    )
    return 0 if tally.faults.none else 1


if __name__ == "__main__":
    sys.exit(main())
