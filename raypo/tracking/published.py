"""Figures that papers print, and ours beside them.

A paper's figure belongs to a method and often to one point of its space (a share of the data, a beta); ours beside it
is of the best fully trained trial there. Nothing is rescaled: a row says what each side measured.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raypo import yaml
from raypo.errors import StudyError
from raypo.search.results import Evaluation, SearchResults, TrialResult, Value
from raypo.tracking.compare import caption, compare, fully_trained
from raypo.tracking.tables import Table, number, plain, to_latex, to_markdown

PAPERS = "papers"
FILE = Path("search_spaces", "studies", "published.yaml")
SCHEDULE = "schedule"
"""The name under which a point says how much of the schedule was trained."""
OURS = {
    "win_rate": ("win rate %", 100.0, 1),
    "lc_win_rate": ("LC win rate %", 100.0, 1),
    "score": ("mean mark", 1.0, 3),
}
COLUMNS = ("search", "table", "method", "at", "measured", "published", "ours", "± 95 %", "n", "trial")
GROUP = {"paper", "table", "study", "metric", "ours", "along", "at", "values"}


@dataclass(frozen=True)
class Published:
    """One figure of a paper; `ours` is our figure of the same kind, `at` the point it belongs to, if it has one."""

    paper: str
    table: str
    study: str
    metric: str
    ours: str | None
    method: str
    at: Mapping[str, Value]
    value: float


def find(named: str) -> Path:
    """The file that `--against` names: the papers' own, or a path.

    Raises:
        StudyError: there is no such file.
    """
    if named != PAPERS:
        return Path(named)
    places = (Path.cwd() / FILE, Path(__file__).parents[2] / FILE)
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise StudyError(f"--against {PAPERS}: no {FILE} here; give the path of a file of published figures")
    return found


def read_published(path: Path) -> tuple[Published, ...]:
    """All figures of a file.

    Raises:
        StudyError: the file is missing, or a group of it lacks something or has a key too many.
    """
    groups = yaml.load_file(path)
    if not isinstance(groups, list) or not all(isinstance(group, Mapping) for group in groups):
        raise StudyError(f"{path}: published figures are a list of groups, got {type(groups).__name__}")
    return tuple(
        figure for index, group in enumerate(groups, 1) for figure in _figures(group, f"{path}: group {index}")
    )


def _figures(group: Mapping[str, Any], where: str) -> Iterator[Published]:
    missing, unknown = GROUP - {"along", "at"} - group.keys(), group.keys() - GROUP
    if missing or unknown:
        raise StudyError(f"{where}: lacks {sorted(missing)}, has unknown {sorted(unknown)}; allowed: {sorted(GROUP)}")
    if group["ours"] is not None and group["ours"] not in OURS:
        raise StudyError(f"{where}: ours: got {group['ours']!r}; allowed: {', '.join(OURS)}, null")
    same = {name: group[name] for name in ("paper", "table", "study", "metric", "ours")}
    at, along = dict(group.get("at") or {}), group.get("along")
    for method, values in group["values"].items():
        points = [({**at, str(along): place}, value) for place, value in values.items()] if along else [(at, values)]
        for point, value in points:
            yield Published(**same, method=method, at=point, value=float(value))


def beside(results: Sequence[SearchResults], published: Sequence[Published]) -> Table:
    """Tabulate published figures with ours beside them; methods without a published one stand at the end."""
    rows: list[tuple[str, ...]] = []
    papers: dict[str, None] = {}
    for result in results:
        wanted = [figure for figure in published if figure.study == result.study["name"]]
        papers.update(dict.fromkeys(figure.paper for figure in wanted))
        rows += [_row(result, figure) for figure in wanted]
        others = [method for method in result.methods if method not in {figure.method for figure in wanted}]
        rows += [_row(result, _unpublished(result, method)) for method in others]
    said = dict.fromkeys(caption(compare(result)) for result in results)
    source = f"Published: {', '.join(papers)}." if papers else f"No figures are recorded for {_names(results)}."
    return Table("Ours beside published figures", COLUMNS, tuple(rows), f"{source} Ours: {' '.join(said)}", words=5)


def render(table: Table, style: str) -> str:
    """Write the table as text: markdown, csv, json (a list of rows by column name) or latex."""
    if style == "json":
        return json.dumps([dict(zip(table.columns, row, strict=True)) for row in table.rows], indent=2)
    if style == "csv":
        text = io.StringIO()
        csv.writer(text).writerows([table.columns, *table.rows])
        return text.getvalue()
    if style not in ("markdown", "latex"):
        raise StudyError(f"--format: no such format, got {style!r}; allowed: table, markdown, csv, json, latex")
    return to_markdown(table) if style == "markdown" else to_latex(table)


def _row(result: SearchResults, theirs: Published) -> tuple[str, ...]:
    at = " ".join(f"{name}={plain(value)}" for name, value in theirs.at.items())
    measured = " / ".join([theirs.metric, *([OURS[theirs.ours][0]] if theirs.ours else [])]).removeprefix(" / ")
    return (
        result.name,
        theirs.table,
        theirs.method,
        at or "best",
        measured,
        number(theirs.value, 3 if theirs.ours == "score" else 1),
        *_ours(result, theirs),
    )


def _ours(result: SearchResults, theirs: Published) -> tuple[str, str, str, str]:
    """(figure, half of its interval, n, trial) of our best trial at that point."""
    nothing = ("–", "–", "–", "–")
    if theirs.ours is None:
        return nothing
    there = [trial for trial in result.trials if trial.method == theirs.method and _is_at(result, trial, theirs.at)]
    measured = [
        (_measured(evaluation, theirs.ours), evaluation, trial) for trial, evaluation in _ends(there, theirs.at)
    ]
    best = max((m for m in measured if math.isfinite(m[0][0])), key=lambda m: m[0][0], default=None)
    if best is None:
        return nothing
    (value, low, high), evaluation, trial = best
    _, scale, digits = OURS[theirs.ours]
    half = number((high - low) / 2, digits, scale)
    return number(value, digits, scale), half, str(evaluation.n), trial.name


def _ends(trials: Sequence[TrialResult], at: Mapping[str, Value]) -> Iterator[tuple[TrialResult, Evaluation]]:
    """Fully trained trials with the evaluation that counts: the last, or the one at a point of the schedule."""
    for trial in filter(fully_trained, trials):
        found = [e for e in trial.history if math.isclose(e.fraction, float(at.get(SCHEDULE, 1.0)), abs_tol=1e-6)]
        if found:
            yield trial, found[-1]


def _measured(evaluation: Evaluation, ours: str) -> tuple[float, float, float]:
    """(figure, low, high), nan where an evaluation has none."""
    if ours == "win_rate":
        return evaluation.win_rate, evaluation.ci_low, evaluation.ci_high
    names = (ours, "lc_ci_low", "lc_ci_high") if ours == "lc_win_rate" else (ours, "", "")
    value, low, high = (evaluation.metrics.get(name, math.nan) for name in names)
    return value, low, high


def _is_at(result: SearchResults, trial: TrialResult, at: Mapping[str, Value]) -> bool:
    known = {**_fixed(result, trial.method), **trial.hyperparameters}
    return all(_same(known.get(name), value) for name, value in at.items() if name != SCHEDULE)


def _fixed(result: SearchResults, method: str) -> dict[str, Any]:
    """What the study gives all trials of a method, defaults too."""
    transforms = {f"data.{name}": v for t in result.study["data"].get("transforms", ()) for name, v in t.items()}
    return {**transforms, **result.study["methods"][method]}


def _same(found: Value | None, wanted: Value) -> bool:
    if isinstance(found, int | float) and isinstance(wanted, int | float):
        return math.isclose(found, wanted, rel_tol=1e-9, abs_tol=1e-12)
    return found == wanted


def _unpublished(result: SearchResults, method: str) -> Published:
    return Published("", "–", str(result.study["name"]), "", "win_rate", method, {}, math.nan)


def _names(results: Sequence[SearchResults]) -> str:
    return ", ".join(dict.fromkeys(str(result.study["name"]) for result in results))
