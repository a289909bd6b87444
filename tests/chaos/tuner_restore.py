"""The same chaos for Ray Tune as it is shipped: OptunaSearch, checkpoints and Tuner.restore.

python tests/chaos/tuner_restore.py --kills 40

Thirty function trials of twelve steps that report a checkpoint every second step; the driver, trials' actors and nodes
are killed at random moments, and Tuner.restore goes on. Counts the same promises as the harness does for raypo.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from killing import TITLES, Grounds, grounds

STEPS, EVERY = 12, 2
TITLES["trial"] = "ray::ImplicitFunc"


def train(config: dict[str, Any]) -> None:
    """Twelve steps; each is written to a log that nobody takes back."""
    from ray import tune

    context, step = tune.get_context(), 0
    log = Path(config["storage"]) / "work" / f"{context.get_trial_id()}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    if (saved := tune.get_checkpoint()) is not None:
        with saved.as_directory() as folder:
            step = int((Path(folder) / "step").read_text())
    while step < STEPS:
        time.sleep(config["step_s"])
        with log.open("a") as file:
            file.write(f"{step}\n")
        step += 1
        if step % EVERY == 0:
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "step").write_text(str(step))
                value = 0.9 - 0.1 * abs(math.log10(config["beta"]) + 1)
                tune.report({"objective": value, "step": step}, checkpoint=tune.Checkpoint.from_directory(folder))


def drive(words: argparse.Namespace) -> None:
    """Begin the experiment, or go on with it, and write its table."""
    import optuna
    import ray
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    ray.init(address=words.address, log_to_driver=False)
    path = words.storage / "experiment"
    trainable = tune.with_resources(train, {"cpu": 1})
    if tune.Tuner.can_restore(str(path)):
        tuner = tune.Tuner.restore(str(path), trainable, resume_unfinished=True, resume_errored=True)
    else:
        space = {"beta": tune.loguniform(0.01, 1.0), "storage": str(words.storage), "step_s": words.step_s}
        searcher = OptunaSearch(metric="objective", mode="max", sampler=optuna.samplers.TPESampler(seed=words.seed))
        tuner = tune.Tuner(
            trainable,
            param_space=space,
            tune_config=tune.TuneConfig(search_alg=searcher, num_samples=words.trials, max_concurrent_trials=4),
            run_config=tune.RunConfig(
                name="experiment",
                storage_path=str(words.storage),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=-1),
            ),
        )
    found = tuner.fit()
    rows = [
        {"beta": result.config["beta"], "done": (result.metrics or {}).get("step") == STEPS, "path": result.path}
        for result in found
    ]
    (words.storage / "table.json").write_text(json.dumps(rows))


def begin(address: str, storage: Path, words: argparse.Namespace, step_s: float) -> subprocess.Popen[bytes]:
    command = [sys.executable, __file__, "--drive", "--address", address, "--storage", str(storage)]
    storage.mkdir(parents=True, exist_ok=True)
    with (storage / "log").open("ab") as log:
        more = ["--trials", str(words.trials), "--seed", str(words.seed), "--step-s", str(step_s)]
        return subprocess.Popen(
            [*command, *more], stdout=log, stderr=log, env={**os.environ, "RAY_AIR_NEW_OUTPUT": "0"}
        )


def count(storage: Path, calm: Path, trials: int) -> dict[str, int]:
    """The promises, for Tune's own records."""
    rows = json.loads((storage / "table.json").read_text())
    twin = json.loads((calm / "table.json").read_text())
    logs = [[int(line) for line in log.read_text().split()] for log in (storage / "work").glob("*.log")]
    reported = [
        [json.loads(line)["step"] for line in result.read_text().splitlines()]
        for result in (storage / "experiment").glob("*/result.json")
    ]
    betas, wanted = Counter(row["beta"] for row in rows), Counter(row["beta"] for row in twin)
    return {
        "lost_trials": trials - sum(row["done"] for row in rows),
        "lost_reports": sum(len(set(range(EVERY, STEPS + 1, EVERY)) - set(steps)) for steps in reported),
        "double_reports": sum(len(steps) - len(set(steps)) for steps in reported),
        "too_much_work_lost": sum(
            before + 1 - after > EVERY
            for steps in logs
            for before, after in itertools.pairwise(steps)
            if after <= before
        ),
        "repeated_steps": sum(len(steps) - len(set(steps)) for steps in logs),
        "steps": sum(map(len, logs)),
        "rows_unlike": sum((betas - wanted).values()),
    }


def disturb(ground: Grounds, words: argparse.Namespace, storage: Path) -> tuple[Counter[str], Counter[int]]:
    dice, kills, exits = random.Random(words.seed), Counter[str](), Counter[int]()
    driver, deadline = begin(ground.address, storage, words, words.step_s), time.monotonic() + words.limit_s
    while time.monotonic() < deadline:
        try:
            driver.wait(dice.uniform(*words.gap))
        except subprocess.TimeoutExpired:
            kind = dice.choice(("driver", "trial", "node"))
            if sum(kills.values()) < words.kills and any((storage / "work").glob("*")):
                kills[kind] += ground.kill(kind, driver, dice)
        if driver.poll() == 0:
            break
        if driver.poll() is not None:
            exits[driver.returncode] += 1
            driver = begin(ground.address, storage, words, words.step_s)
    driver.kill()
    return kills, exits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gap", type=float, nargs=2, default=(0.5, 6.0))
    parser.add_argument("--step-s", type=float, default=0.2)
    parser.add_argument("--limit-s", type=float, default=1800)
    parser.add_argument("--storage", type=Path)
    parser.add_argument("--address")
    parser.add_argument("--drive", action="store_true")
    words = parser.parse_args()
    if words.drive:
        drive(words)
        return
    top = words.storage or Path(tempfile.mkdtemp(prefix="tuner-chaos-"))
    with grounds() as ground:
        begin(ground.address, top / "calm", words, 0.02).wait()
        kills, exits = disturb(ground, words, top / "chaos")
    ended = (top / "chaos" / "table.json").exists()
    found = count(top / "chaos", top / "calm", words.trials) if ended else {}
    print(json.dumps({"kills": kills, "exits": exits, "ended": ended, **found, "storage": str(top)}, indent=1))


if __name__ == "__main__":
    main()
