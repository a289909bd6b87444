"""What 16 live W&B runs cost: raypo's tracker in one process against Ray's `WandbLoggerCallback`.

Both write offline, 16 trials at a time, the same rows. Counted while all runs are open: processes that exist for W&B
alone, and their memory (proportional set size, so that shared pages count once). Rows per second run from the first
row to the last run closed.

    python tests/benchmarks/wandb_footprint.py            both
    python tests/benchmarks/wandb_footprint.py raypo      one side
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import psutil

RUNS = 16
ROWS = 200


def memory_mib(process: psutil.Process) -> float:
    """Proportional set size in MiB; 0 for a process that ended meanwhile."""
    try:
        return process.memory_full_info().pss / 2**20
    except psutil.Error:
        return 0.0


def helpers(*names: str) -> list[psutil.Process]:
    """The processes below this one whose command line holds one of the names."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if any(name in " ".join(process.cmdline()) for name in names) and process.status() != "zombie":
                found.append(process)
        except psutil.Error:
            continue
    return found


def raypo_side(folder: Path) -> None:
    """Measure the tracker: it adds W&B's service process, and a thread with W&B's client to the driver."""
    from raypo.search.results import SearchResults, TrialResult
    from raypo.tracking.wandb import Tracker

    def trial(number: int, state: str) -> TrialResult:
        name = f"dpo-{number:04d}"
        history, cost = (), 0.0
        return TrialResult(name, "dpo", number, state, {"beta": 0.1}, 1.0, history, cost, folder / name, number)  # type: ignore[arg-type]

    before = memory_mib(psutil.Process())
    search = SearchResults("footprint", folder, {}, {}, ())
    tracker = Tracker(search, "offline")
    for number in range(RUNS):
        tracker.trial(trial(number, "running"))
    while len(list((folder / "wandb").glob("offline-run-*"))) < RUNS:
        time.sleep(0.05)
    begun = time.perf_counter()
    for step in range(1, ROWS + 1):
        for number in range(RUNS):
            tracker.log(f"dpo-{number:04d}", step, step / ROWS, {"loss": 1 / step, "lr": 1e-4})
    told = time.perf_counter() - begun
    services = helpers("wandb-core")
    inside = memory_mib(psutil.Process()) - before
    outside = sum(memory_mib(process) for process in services)
    trials = tuple(trial(number, "finished") for number in range(RUNS))
    tracker.finish(SearchResults("footprint", folder, {}, {}, trials))
    taken = time.perf_counter() - begun
    print(
        f"raypo Tracker        {len(services):3d} processes  {inside + outside:7.0f} MiB ({inside:.0f} in the driver)  "
        f"{RUNS * ROWS / taken:8.0f} rows/s  {told / (RUNS * ROWS) * 1e6:.0f} us of the driver per row"
    )


def ray_side(folder: Path) -> None:
    """Measure Ray's callback: a queue actor, a logging actor and a service process for every trial."""
    os.environ.update(WANDB_MODE="offline", WANDB_DIR=str(folder), RAY_AIR_NEW_OUTPUT="0", WANDB_SILENT="true")
    import ray
    from ray import tune
    from ray.air.integrations.wandb import WandbLoggerCallback

    marker = folder / "go"

    def train(config: dict[str, float]) -> None:
        (folder / f"up-{config['number']}").touch()
        tune.report({"loss": 1.0})
        while not marker.exists():
            time.sleep(0.1)
        for step in range(2, ROWS + 1):
            tune.report({"loss": 1 / step, "lr": 1e-4})

    class Watch(tune.Callback):
        """Counts once all trials are up, and lets them go."""

        begun = 0.0

        def on_step_end(self, iteration: int, trials: list[object], **info: object) -> None:  # noqa: ARG002
            names = ("wandb-core", "_WandbLoggingActor", "_QueueActor")
            if not marker.exists() and len(list(folder.glob("up-*"))) == RUNS and len(helpers("wandb-core")) >= RUNS:
                found = helpers(*names)
                print(f"Ray callback         {len(found):3d} processes  {sum(map(memory_mib, found)):7.0f} MiB", end="")
                Watch.begun = time.perf_counter()
                marker.touch()

    ray.init(num_cpus=RUNS, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    callbacks = [WandbLoggerCallback(project="footprint", group="footprint"), Watch()]
    tune.Tuner(
        train,
        param_space={"number": tune.grid_search(list(range(RUNS)))},
        tune_config=tune.TuneConfig(max_concurrent_trials=RUNS),
        run_config=tune.RunConfig(storage_path=str(folder), callbacks=callbacks, verbose=0),
    ).fit()
    print(f"{'':26}{RUNS * ROWS / (time.perf_counter() - Watch.begun):8.0f} rows/s")
    ray.shutdown()


if __name__ == "__main__":
    sides = {"raypo": raypo_side, "ray": ray_side}
    chosen = sys.argv[1:] or list(sides)
    for name in chosen:
        with tempfile.TemporaryDirectory() as scratch:
            sides[name](Path(scratch))
