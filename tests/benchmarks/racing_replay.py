"""Judge calls that racing saves, and what it loses, replayed on full matrices of verdicts.

Each matrix [configurations, prompts] is raced many times, with prompts and configurations in another random order.
Share: judge calls made over those of judging everything. Regret: how much lower the winner's win rate over all prompts
is than the best one's, in points. "side by side" races all configurations block by block, as a confirmation does;
"in turn" lets them arrive one after another, as the trials of a search do.

    python tests/benchmarks/racing_replay.py [--repeats 100] [--shared ../shared]
"""

from __future__ import annotations

import argparse
import csv
import gzip
import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.stats import norm

from raypo.evaluation.racing import Finish, Race, run, run_in_turn, share

Matrix = np.ndarray
Draw = Callable[[np.random.Generator], Matrix]


def search(configurations: int, prompts: int, spread: float) -> Draw:
    """A search whose win rates scatter by `spread` around 55 %; the same prompts make verdicts correlate by 0.5."""

    def draw(rng: np.random.Generator) -> Matrix:
        rates = np.clip(rng.normal(0.55, spread, configurations), 0.02, 0.98)
        latent = np.sqrt(0.5) * (rng.normal(size=prompts) + rng.normal(size=(configurations, prompts)))
        return (norm.cdf(latent) < rates[:, None]).astype(float)

    return draw


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(gzip.decompress(path.read_bytes()).decode().splitlines()))


def alpaca_eval(path: Path) -> dict[str, Matrix]:
    """Judge -> win probabilities of every model on the prompts that all of them answered."""
    tables: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows(path):
        score = (float(row["preference"]) or 1.5) - 1 if row["preference"] else np.nan
        tables[row.get("judge", "weighted_alpaca_eval_gpt4_turbo")][row["model"]][int(row["index"])] = score
    matrices = {}
    for judge, models in tables.items():
        everywhere = sorted(set.intersection(*(set(scores) for scores in models.values())))
        matrix = np.array([[scores[i] for i in everywhere] for scores in models.values()])
        matrices[judge] = matrix[:, ~np.isnan(matrix).any(0)]
    return matrices


def llmfao(path: Path) -> Matrix:
    """Crowd votes of 59 models against each other: as many votes for each as the rarest model has, prompt by prompt."""
    votes: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    score = {"left": 1.0, "right": 0.0, "tie": 0.5}
    for row in rows(path):
        votes[row["left"]][row["prompt"]].append(score[row["winner"]])
        votes[row["right"]][row["prompt"]].append(1 - score[row["winner"]])
    rng = np.random.default_rng(0)
    lines = []
    for prompts in votes.values():
        queues = [list(rng.permutation(prompts[name])) for name in sorted(prompts)]
        lines.append([queue[i] for i in range(max(map(len, queues))) for queue in queues if i < len(queue)])
    width = min(map(len, lines))
    return np.array([line[:width] for line in lines])


def replay(draw: Draw, runner: Callable[[Matrix, Race], Finish], repeats: int) -> tuple[float, float, float]:
    """Share of judge calls, mean regret in points, and how often the winner was another."""
    finishes, lost = [], []
    for seed in range(repeats):
        rng = np.random.default_rng(seed)
        scores = rng.permutation(draw(rng))
        race = Race(scores.shape[1], seed=seed)
        finishes.append(runner(scores, race))
        rates = scores.mean(1)
        lost.append(100 * (rates.max() - rates[finishes[-1].winner]))
    return share(finishes, race), float(np.mean(lost)), float(np.mean(np.array(lost) > 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("RAYPO_SHARED", "../shared")))
    given = parser.parse_args()
    cases: dict[str, Draw] = {
        f"simulated, {k} configurations x {n}, spread {100 * s:g}": search(k, n, s)
        for k, n, s in ((32, 805, 0.03), (32, 805, 0.05), (32, 805, 0.1), (32, 256, 0.05), (100, 805, 0.05))
    }
    if given.shared.exists():
        data = given.shared / "data"
        matrices = alpaca_eval(data / "alpaca_eval/lc_annotations.csv.gz")
        matrices |= alpaca_eval(data / "alpaca_eval/other_judges_annotations.csv.gz")
        matrices["llmfao, crowd"] = llmfao(data / "llmfao/crowd-comparisons.csv.gz")
        cases |= {f"{name}, {len(m)} x {m.shape[1]}": (lambda _, m=m: m) for name, m in matrices.items()}
    print(f"{'':52}{'side by side':^26}{'in turn':^26}\n{'':52}" + f"{'share':>8}{'regret':>9}{'other':>8} " * 2)
    for name, draw in cases.items():
        cells = [replay(draw, runner, given.repeats) for runner in (run, run_in_turn)]
        print(f"{name:52}" + "".join(f"{s:8.1%}{r:9.3f}{w:8.0%} " for s, r, w in cells), flush=True)


if __name__ == "__main__":
    main()
