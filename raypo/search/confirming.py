"""Confirmation: the best configurations, trained again and judged on prompts that the search never saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from raypo.evaluation.completions import read
from raypo.evaluation.win_rate import estimate
from raypo.search.folders import trial_folder
from raypo.search.jobs import Job, Outcome, Together
from raypo.search.ledger import Ledger, Row
from raypo.search.ranking import contenders
from raypo.search.samplers import seed_of
from raypo.study import Study


@dataclass(frozen=True)
class Again:
    """One configuration that is trained again, once for each seed."""

    row: Row
    jobs: tuple[Job, ...]


def candidates(study: Study, ledger: Ledger, job_of: Callable[[Row], Job]) -> list[Again]:
    """The best `confirm.top` finished trials of each method that may win, those that have no confirmation yet."""
    chosen = []
    for label in study.methods:
        best = contenders(ledger.rows(label))[: study.confirm.top]
        chosen += [row for row in best if row.confirmation is None]
    return [Again(row, tuple(_job(study, job_of(row), k) for k in range(study.confirm.seeds))) for row in chosen]


def confirm(
    ledger: Ledger, folder: Path, work: Sequence[Again], together: Together, say: Callable[[str], None]
) -> None:
    """Run all jobs on the slots and write each configuration's confirmation into the ledger.

    A seed that fails or diverges counts: it is named in the confirmation, and the others make the figure.
    """
    whose = {job.trial: again for again in work for job in again.jobs}
    outcomes: dict[str, list[Outcome]] = {again.row.name: [] for again in work}
    for outcome in together([job for again in work for job in again.jobs]):
        again = whose[outcome.trial]
        found = outcomes[again.row.name]
        found.append(outcome)
        if len(found) == len(again.jobs):
            confirmation = combined(sorted(found, key=lambda outcome: outcome.trial), folder)
            ledger.confirm(again.row, confirmation)
            say(f"confirmed {again.row.name}: {_words(confirmation)}")


def combined(outcomes: Sequence[Outcome], folder: Path) -> dict[str, Any]:
    """One figure over all seeds: the mean score, its interval clustered by prompt, the spread between seeds.

    Where no seed finished there is no figure, and it holds the failures alone.
    """
    good = [outcome for outcome in outcomes if outcome.state == "finished"]
    failed = {outcome.trial: outcome.reason for outcome in outcomes if outcome.state != "finished"}
    if not good:
        return {"seeds": 0, "failed": failed}
    stored = [read(trial_folder(folder, outcome.trial) / "completions.parquet", 1.0) for outcome in good]
    scores = np.array([row.score for rows in stored for row in rows])
    prompts = np.array([row.prompt for rows in stored for row in rows])
    first = good[0].evaluation
    found = estimate(scores, judge=first["judge"], opponent=first["opponent"], prompts=prompts)
    rates = [float(outcome.evaluation["win_rate"]) for outcome in good]
    return {
        "win_rate": found.win_rate,
        "ci_low": found.ci_low,
        "ci_high": found.ci_high,
        "n": found.n,
        "seeds": len(good),
        "spread": float(np.std(rates, ddof=1)) if len(rates) > 1 else 0.0,
        "rates": rates,
        "objective": float(np.mean([outcome.evaluation["objective"] for outcome in good])),
        "kl": float(np.mean([outcome.evaluation.get("kl", np.nan) for outcome in good])),
        "length": float(np.mean([outcome.evaluation["length"] for outcome in good])),
        "failed": failed,
    }


def _job(study: Study, job: Job, k: int) -> Job:
    seed = seed_of(study.search.seed, f"{job.trial}/confirmation", k)
    return replace(job, trial=f"{job.trial}.s{k}", seed=seed, until=1.0, confirm=True)


def _words(confirmation: dict[str, Any]) -> str:
    if not confirmation["seeds"]:
        return "every seed failed"
    rate, low, high = (100 * confirmation[name] for name in ("win_rate", "ci_low", "ci_high"))
    spread = f", spread over {confirmation['seeds']} seeds {100 * confirmation['spread']:.1f}"
    failed, seeds = len(confirmation["failed"]), confirmation["seeds"]
    lost = f"; {failed} of {failed + seeds} seeds {'was' if failed == 1 else 'were'} lost" if failed else ""
    return f"{rate:.1f} % [{low:.1f}, {high:.1f}] on {confirmation['n']} unseen prompts{spread}{lost}"
