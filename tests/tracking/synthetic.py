"""A finished search written by hand: four methods, ten trials each, with the folders that trials leave behind.

Win rates come from a made-up landscape with an optimum per method, a KL that grows with the learning rate and falls
with beta, and a loss of quality beyond a KL of 12 nats, so that plots show what real searches show.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raypo.search.results import Evaluation, SearchResults, TrialResult

PROMPTS = 120
STEPS = 30
EVERY = 5
BEST = {
    "dpo": (0.1, 3e-4, 0.66),
    "ipo": (0.3, 2e-4, 0.60),
    "simpo": (2.5, 2e-4, 0.68),
    "epsilon_dpo": (0.05, 3e-4, 0.71),
}
BETAS = {"dpo": (0.01, 1.0), "ipo": (0.03, 3.0), "simpo": (0.5, 10.0), "epsilon_dpo": (0.01, 1.0)}
ENDS = {3: "pruned", 6: "pruned", 8: "diverged", 9: "failed"}
REASONS = {
    "pruned": "win rate 41.2 % at 1/3 of the schedule, below the median of its method",
    "diverged": "KL 143.0 nats at step 20, limit 100",
    "failed": "worker 1 ran out of memory at step 12: <tensor> & friends",
}


def study(name: str) -> dict[str, Any]:
    """A resolved study file, as storage holds it."""
    methods = {
        method: {"beta": {"log_uniform": list(BETAS[method])}, "lr": {"log_uniform": [1e-5, 1e-3]}} for method in BEST
    }
    return {
        "name": name,
        "model": {"path": "quickstart", "dtype": "fp32"},
        "data": {"source": "quickstart", "split": "train", "max_length": 256},
        "training": {"epochs": 1, "batch_size": 32, "optimizer": "adamw"},
        "methods": methods,
        "objective": {
            "metric": "win_rate",
            "opponent": "start",
            "at": [1 / 3, 2 / 3, 1.0],
            "judge": {"kind": "rule", "function": "quickstart"},
            "prompts": {"source": "/home/jane/data/prompts.jsonl", "count": PROMPTS},
        },
        "search": {"trials": 10, "sampler": "tpe", "pruner": "median", "seed": 0},
        "resources": {"slots": 2, "workers": 2},
        "tracking": {"wandb": "offline", "project": "raypo"},
    }


@dataclass(frozen=True)
class Landscape:
    """Where one trial stands: how far its win rate can rise, and how fast it drifts from the reference."""

    quality: float
    drift: float

    def at(self, fraction: float) -> tuple[float, float]:
        """Return the true win rate and KL at a fraction of the schedule."""
        kl = self.drift * fraction
        lift = (self.quality - 0.5) * (1 - math.exp(-kl / 3))
        return min(max(0.5 + lift - 0.02 * max(kl - 12, 0), 0.03), 0.97), kl


def landscape(method: str, beta: float, lr: float) -> Landscape:
    best_beta, best_lr, top = BEST[method]
    miss = math.log(beta / best_beta) ** 2 / 9 + math.log(lr / best_lr) ** 2 / 6
    return Landscape(0.5 + (top - 0.5) * math.exp(-miss), 8 * (lr / best_lr) ** 0.7 * (best_beta / beta) ** 0.5)


def evaluation(scores: np.ndarray, fraction: float, kl: float, length: float) -> Evaluation:
    mean = float(scores.mean())
    half = 1.96 * float(scores.std(ddof=1)) / math.sqrt(len(scores))
    return Evaluation(
        fraction=fraction,
        step=round(STEPS * fraction),
        win_rate=mean,
        ci_low=mean - half,
        ci_high=mean + half,
        n=len(scores),
        kl=kl,
        length=length,
        cost_s=60 * fraction,
        metrics={"eval/broken_text": 0.01 * fraction, "eval/distinct_2": 0.8 - 0.01 * kl},
    )


def write_metrics(folder: Path, until: float, lr: float, rng: np.random.Generator) -> None:
    """Write the step log: one JSON object per logged training step."""
    rows = []
    for step in range(EVERY, round(STEPS * until) + 1, EVERY):
        margin = 2 * step / STEPS + rng.normal(0, 0.05)
        rows.append(
            {
                "step": step,
                "fraction": step / STEPS,
                "loss": math.log(1 + math.exp(-margin)),
                "lr": lr * (1 - step / STEPS),
                "grad_norm": 1.0 + rng.random(),
                "rewards/margins": margin,
                "rewards/accuracies": min(0.5 + margin / 5, 0.95),
            }
        )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_trial(folder: Path, method: str, number: int, difficulty: np.ndarray, salt: int) -> TrialResult:
    rng = np.random.default_rng([salt, number, *method.encode()])
    low, high = BETAS[method]
    beta = float(math.exp(rng.uniform(math.log(low), math.log(high))))
    lr = float(math.exp(rng.uniform(math.log(1e-5), math.log(1e-3))))
    state = ENDS.get(number, "finished")
    until = {"finished": 1.0, "pruned": 1 / 3, "diverged": 2 / 3, "failed": 1 / 3}[state]
    ground = landscape(method, beta, lr)
    folder.mkdir(parents=True)
    write_metrics(folder, until, lr, rng)
    history, completions = [], []
    for fraction in (f for f in (1 / 3, 2 / 3, 1.0) if f <= until):
        true, kl = ground.at(fraction)
        chance = 1 / (1 + np.exp(-(math.log(true / (1 - true)) + difficulty)))
        scores = (rng.random(PROMPTS) < chance).astype(float)
        scores[rng.random(PROMPTS) < 0.05] = 0.5
        history.append(evaluation(scores, fraction, kl, 18 + kl / 2))
        completions += [
            {
                "fraction": fraction,
                "prompt": f"List {index % 5 + 2} words that rhyme with <b>{index}</b>, politely.",
                "answer": f"Here are they: {' '.join(['rhyme'] * (index % 5 + 2))} ({method}, {number}).",
                "opponent": "I do not know any words " * (1 + index % 3),
                "score": float(score),
            }
            for index, score in enumerate(scores)
        ]
    pq.write_table(pa.Table.from_pylist(completions), folder / "completions.parquet")
    return TrialResult(
        name=f"{method}-{number:04d}",
        method=method,
        number=number,
        state=state,
        hyperparameters={"beta": beta, "lr": lr},
        fraction=until,
        history=tuple(history),
        cost_s=75 * until,
        folder=folder,
        seed=1000 + number,
        reason=REASONS.get(state),
        checkpoint=str(folder / "checkpoints" / "last") if state == "finished" else None,
    )


def write_search(root: Path, name: str = "rhymes", trials: int = 10, salt: int = 0) -> SearchResults:
    """Write a whole search under `root` and return its results."""
    folder = root / name
    difficulty = np.random.default_rng(7).normal(0, 0.8, PROMPTS)
    found = tuple(
        write_trial(folder / "trials" / f"{method}-{number:04d}", method, number, difficulty, salt)
        for method in BEST
        for number in range(trials)
    )
    versions = {"raypo": "0.1.0", "torch": "2.13.0", "git": "0123abc"}
    return SearchResults(name=name, folder=folder, study=study(name), versions=versions, trials=found)
