"""The search-level run: in W&B the comparison is there without clicking it together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import partial
from types import ModuleType
from typing import Any

import plotly.graph_objects as go

from raypo.search.results import SearchResults
from raypo.tracking import charts
from raypo.tracking.compare import Comparison, caption, compare, quoted
from raypo.tracking.fronts import fronts
from raypo.tracking.importance import searched
from raypo.tracking.lineage import models, send_lineage
from raypo.tracking.parallel import parallel
from raypo.tracking.projection import TIMEOUT_S, Projection
from raypo.tracking.runs import fingerprint, public, public_text, reason, run_id
from raypo.tracking.samples import chosen_prompts, winners_answers
from raypo.tracking.tables import configuration as in_words

NAME = "search"
UPLOAD_S = 3600.0
PROMPTS = 20
FIGURES = ("win_rate", "ci_low", "ci_high", "n", "kl", "length")


def write_overview(projection: Projection, results: SearchResults) -> None:
    """Write the search-level run: tables, figures, sample answers, and the best models with what they come from."""
    best = models(results)
    known = [*(fingerprint(trial) for trial in results.trials), *sorted(best), json.dumps(results.origins)]
    mark = hashlib.sha256("".join(known).encode()).hexdigest()[:12]
    patience = UPLOAD_S if best else TIMEOUT_S
    projection.publish(NAME, mark, partial(_write, results=results, token=projection.cursor.token), patience)


def _write(wandb: ModuleType, run: Any, results: SearchResults, token: str) -> None:
    comparison = compare(results)
    run.notes = public_text(caption(comparison))
    run.config.update(public({key: value for key, value in results.study.items() if key not in ("name", "storage")}))
    run.config.update(public({"versions": results.versions}))
    tables = {"best": _best(results, run, token), "trials": _trials(results), "answers": _answers(results)}
    drawn = {name: wandb.Plotly(shown) for name, shown in figures(results) if shown is not None}
    run.log({**{name: wandb.Table(columns=head, data=rows) for name, (head, rows) in tables.items()}, **drawn})
    run.summary.update(_headline(comparison))
    send_lineage(wandb, run, results)


def figures(results: SearchResults) -> Iterator[tuple[str, go.Figure | None]]:
    """Yield the report's figures under the names they have in W&B."""
    yield "winners", charts.forest(results)
    yield "front", charts.front(results)
    for name, drawn in fronts(results):
        yield f"fronts/{name}", drawn
    yield "over_optimisation", charts.over_optimisation(results)
    yield "budget", charts.budget(results)
    yield "importances", charts.importance_bars(results)
    for metric in ("loss", "rewards/margins"):
        yield f"curves/{metric}", charts.learning(results, metric)
    for method in results.methods:
        yield f"parallel/{method}", parallel(results, method)
        for name in searched(results, method):
            yield f"slices/{method}/{name}", charts.slice_of(results, method, name)


def _headline(comparison: Comparison) -> dict[str, Any]:
    rows = [row for row in comparison.rows if row.win_rate is not None]
    figures = {f"best/{row.method}/{name}": getattr(row, name) for row in rows for name in FIGURES}
    measured_by = {"judge": public_text(comparison.judge), "opponent": public_text(comparison.opponent)}
    return {**figures, "confirmed": comparison.confirmed, **measured_by}


def _best(results: SearchResults, run: Any, token: str) -> tuple[list[str], list[list[Any]]]:
    runs = run.url.rsplit("/", 1)[0] if run.url else ""
    rows = []
    for row in compare(results).rows:
        trial = next((one for one in results.trials if one.name == row.trial), None)
        identity = run_id(results.name, token, row.trial) if row.trial else ""
        known = [row.method, row.trial, in_words(row.hyperparameters), *(getattr(row, name) for name in FIGURES)]
        confirmed = trial is not None and trial.confirmed is not None
        counts = [row.finished, row.pruned, row.failed, row.diverged]
        link = f"{runs}/{identity}" if runs and identity else identity
        rows.append([*known, confirmed, trial.cost_s if trial else None, *counts, link])
    head = ["method", "trial", "configuration", *FIGURES, "confirmed", "cost_s"]
    return [*head, "finished", "pruned", "failed", "diverged", "run"], rows


def _trials(results: SearchResults) -> tuple[list[str], list[list[Any]]]:
    names = list(dict.fromkeys(name for trial in results.trials for name in trial.hyperparameters))
    head = ["trial", "method", "state", "fraction", *names, *FIGURES, "cost_s", "reason"]
    rows = []
    for trial in results.trials:
        found = quoted(trial) if trial.estimate else {}
        settings = [trial.hyperparameters.get(name) for name in names]
        known = [trial.name, trial.method, trial.state, trial.fraction, *settings]
        rows.append([*known, *(found.get(name) for name in FIGURES), trial.cost_s, reason(trial)])
    return head, rows


def _answers(results: SearchResults) -> tuple[list[str], list[list[Any]]]:
    answers = winners_answers(results)
    rows = []
    for prompt in chosen_prompts(answers, PROMPTS):
        for method, own in answers.items():
            row = own[prompt]
            rows.append([prompt, method, row["answer"], row["opponent"], row["score"]])
    return ["prompt", "method", "answer", "opponent", "score"], rows
