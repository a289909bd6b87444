"""Benchmark figures of the methods' winners, of one search or of several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raypo.errors import StudyError
from raypo.json import dumps
from raypo.search.results import SearchResults, TrialResult
from raypo.tracking.tables import Table, number, to_latex, to_markdown


def benchmarked(results: SearchResults) -> list[TrialResult]:
    """The trials with benchmark figures, method by method.

    Raises:
        StudyError: there is none.
    """
    found = [trial for method in results.methods for trial in results.trials if trial.method == method]
    found = [trial for trial in found if trial.benchmarks]
    if not found:
        raise StudyError(
            f"{results.name}: no trial has benchmarks; name tasks in the study's benchmarks.tasks, and they are run on "
            "each method's winner once the search is over"
        )
    return found


def as_json(searches: Sequence[SearchResults]) -> dict[str, Any]:
    """What `raypo compare --benchmarks --json` prints."""
    return {
        "benchmarks": [
            {"search": results.name, "method": trial.method, "trial": trial.name, **score}
            for results in searches
            for trial in benchmarked(results)
            for score in trial.benchmarks
        ]
    }


def benchmark_table(searches: Sequence[SearchResults]) -> Table:
    """Tabulate the figures: a row for each task and metric, a column for each winner."""
    columns: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
    for results in searches:
        for trial in benchmarked(results):
            name = trial.name if len(searches) == 1 else f"{results.name}/{trial.name}"
            columns[name] = {(score["task"], score["metric"]): dict(score) for score in trial.benchmarks}
    keys = list(dict.fromkeys(key for scores in columns.values() for key in scores))
    rows = tuple((*key, *(_cell(scores.get(key)) for scores in columns.values())) for key in keys)
    caption = "Value ± standard error (examples), by lm-evaluation-harness."
    return Table("Benchmarks", ("task", "metric", *columns), rows, caption, words=2)


def render(searches: Sequence[SearchResults], style: str) -> str:
    """Write the figures as JSON, markdown or LaTeX."""
    if style == "json":
        return dumps(as_json(searches), indent=2)
    if style not in ("markdown", "latex"):
        raise StudyError(
            f"--format: benchmarks have no such format, got {style!r}; allowed: table, markdown, json, latex"
        )
    return (to_markdown if style == "markdown" else to_latex)(benchmark_table(searches))


def _cell(score: dict[str, Any] | None) -> str:
    if score is None:
        return "–"
    error = "" if score["standard_error"] is None else f" ± {number(score['standard_error'], 4)}"
    return f"{number(score['value'], 4)}{error}" + (f" ({score['n']})" if score["n"] else "")
