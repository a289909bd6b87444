"""Replays samplers and pruners on recorded and simulated learning curves: regret against budget, in points.

    python tests/benchmarks/search_replay.py [--seeds 20] [--budgets 6 12 24] [--workers 4] [--samplers tpe random]

Regret is the final value of the best configuration there is, less that of the configuration the search picked, both
trained on the full schedule and without noise. A budget of 12 pays for 12 full trials; `workers` trials run at a time.
Tune's side is Tune's own code: `ASHAScheduler` and `OptunaSearch` are driven in this process as its controller drives
them, and the trial with the best last value is picked, as `ResultGrid.get_best_result` does.
"""

import argparse
import heapq
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from replay_arms import Arm, Raypo, TuneAsShipped
from replay_problems import Problem, lcbench, over_optimising_problems

from raypo.search.pruners import PRUNERS


def regret(arm: Arm, budget: float) -> float:
    """Run the search until the budget (in full trials) is spent; points between its pick and the best there is."""
    problem, limit = arm.problem, budget * arm.problem.horizon
    spent, clock, free = 0.0, 0.0, arm.workers
    events: list[tuple[float, int, int]] = []
    while True:
        while free and not (arm.finishes_what_it_starts and spent + _promised(arm) + problem.horizon > limit + 1e-9):
            if (run := arm.start()) is None:
                break
            free -= 1
            heapq.heappush(events, (clock + arm.steps[0], run.number, 0))
        if not events:
            break
        clock, number, index = heapq.heappop(events)
        spent += arm.steps[index] - (arm.steps[index - 1] if index else 0)
        if spent > limit + 1e-9:
            break
        run, step = arm.runs[number], arm.steps[index]
        run.values[step] = arm.measure(run, step)
        if arm.stops(run, step):
            run.over = True
            free += 1
        else:
            heapq.heappush(events, (clock + arm.steps[index + 1] - step, number, index + 1))
    picked = arm.pick()
    return problem.best - (float(problem.curve(picked.params)[-1]) if picked else 0.0)


def _promised(arm: Arm) -> float:
    """Steps that the running trials may still take."""
    return sum(arm.problem.horizon - max(run.values, default=0) for run in arm.runs if not run.over)


def arms(samplers: Sequence[str], pruners: Sequence[str]) -> dict[str, tuple[type[Arm], Mapping[str, Any]]]:
    """Name -> class and settings of every way to search that is compared."""
    shipped = {
        "tune asha 1/27, factor 3": (TuneAsShipped, {"grace": 1 / 27, "factor": 3}),
        "tune asha, its defaults": (TuneAsShipped, {"grace": 0, "factor": 4}),
    }
    ours = {f"{s} + {p}": (Raypo, {"sampler": s, "pruner": p}) for s in samplers for p in pruners}
    at = (1 / 9, 1 / 3, 2 / 3, 1.0)
    early = {
        f"{samplers[0]} + halving, 1/9 {word}": (
            Raypo,
            {"sampler": samplers[0], "pruner": "successive_halving", "at": at, "first": first},
        )
        for word, first in (("once proven", 1 / 3), ("at once", 1 / 9))
    }
    return {**shipped, **ours, **early}


def mean_regret(
    kind: type[Arm], settings: Mapping[str, Any], problems: Sequence[Problem], budget: float, seeds: int, workers: int
) -> tuple[float, float]:
    """Mean over problems and seeds, with its standard error."""
    found = [regret(kind(problem, seed, workers, **settings), budget) for problem in problems for seed in range(seeds)]
    return float(np.mean(found)), float(np.std(found) / np.sqrt(len(found)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--budgets", type=float, nargs="+", default=[6, 12, 24])
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--samplers", nargs="+", default=["tpe", "gp", "random"])
    parser.add_argument("--pruners", nargs="+", default=list(PRUNERS))
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("RAYPO_SHARED", "../shared")))
    parser.add_argument("--only", choices=["lcbench", "over-optimising"])
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.disable(logging.WARNING)
    groups = {"over-optimising": [[problem] for problem in over_optimising_problems()]}
    if given.only != "over-optimising" and given.shared.exists():
        groups["lcbench"] = [lcbench(given.shared)]
    for group, sets in groups.items():
        if given.only not in (None, group):
            continue
        for problems in sets:
            title = problems[0].name if len(problems) == 1 else f"{len(problems)} tasks"
            print(f"\n{group}: {title}\n{'':28}" + "".join(f"{budget:>14g}" for budget in given.budgets), flush=True)
            for name, (kind, settings) in arms(given.samplers, given.pruners).items():
                if name.endswith("wilcoxon") and not problems[0].noise:
                    continue
                cells = [mean_regret(kind, settings, problems, b, given.seeds, given.workers) for b in given.budgets]
                print(f"{name:28}" + "".join(f"{mean:8.2f} ±{error:4.2f}" for mean, error in cells), flush=True)


if __name__ == "__main__":
    main()
