"""Figures that papers print, and ours beside them.

A paper's figure belongs to a method and often to one point of its space (a share of the data, a beta); ours beside it
is of the best fully trained trial there, confirmed on unseen prompts where such a trial was. Nothing is rescaled: a row
says what each side measured, and ours on which prompts.
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
from raypo.evaluation.metrics import METRICS, Metric
from raypo.search.results import Evaluation, SearchResults, TrialResult, Value
from raypo.tracking.compare import compare, fully_trained, judged_by, quoted, winner
from raypo.tracking.tables import Table, number, plain, to_latex, to_markdown

PAPERS = "papers"
FILE = Path("search_spaces", "studies", "published.yaml")
SCHEDULE = "schedule"
"""The name under which a point says how much of the schedule was trained."""
OURS = ("win_rate", "lc_win_rate", "score")
"""Metrics of ours that papers print figures of."""
CONFIRMED, SEARCHED = "confirmed", "search"
COLUMNS = ("search", "table", "method", "at", "measured", "published", "ours", "± 95 %", "n", "trial", "basis")
GROUP = {"paper", "table", "study", "metric", "ours", "along", "at", "values"}


Best = tuple[Mapping[str, Any], TrialResult, str]
"""Figures of a trial by name, the trial, and which prompts they were measured on."""


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
        if not Path(named).is_file():
            raise StudyError(f"--against {named}: no such file; give {PAPERS}, or a file of published figures")
        return Path(named)
    places = (Path.cwd() / FILE, Path(__file__).parents[2] / FILE)
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise StudyError(f"--against {PAPERS}: no {FILE} here; give the path of a file of published figures")
    return found


def read_published(path: Path) -> tuple[Published, ...]:
    """All figures of a file.

    Raises:
        StudyError: the file is missing, or a group of it lacks something, has a key too many or a wrong value.
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
    same = {name: str(group[name]) for name in ("paper", "table", "study", "metric")}
    at, along = _mapping(group.get("at") or {}, f"{where}: at"), group.get("along")
    for method, values in _mapping(group["values"], f"{where}: values").items():
        place = f"{where}: values.{method}"
        along_it = _mapping(values, f"{place}, along {along}") if along else {}
        for point, value in [({**at, str(along): p}, v) for p, v in along_it.items()] if along else [(at, values)]:
            yield Published(**same, ours=group["ours"], method=str(method), at=point, value=_number(value, place))


def _mapping(found: Any, where: str) -> Mapping[Any, Any]:
    if not isinstance(found, Mapping):
        raise StudyError(f"{where}: got {found!r}; give a value to each name, as in {{dpo: 61.5}}")
    return found


def _number(found: Any, where: str) -> float:
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise StudyError(
            f"{where}: got {found!r}; a published figure is a number, or give along and a number at each point"
        )
    return float(found)


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
    said = dict.fromkeys(f"{judged_by(compare(result))}." for result in results)
    source = f"Published: {', '.join(papers)}." if papers else f"No figures are recorded for {_names(results)}."
    basis = f"{CONFIRMED}: measured on unseen prompts; {SEARCHED}: on those that chose it, optimistic."
    text = f"{source} Ours: {' '.join(said)} {basis}"
    return Table("Ours beside published figures", COLUMNS, tuple(rows), text, words=5)


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
    metric = METRICS.get(theirs.ours or "")
    measured = " / ".join(filter(None, [theirs.metric, f"{metric.title} {metric.unit}".strip() if metric else ""]))
    return (
        result.name,
        theirs.table,
        theirs.method,
        at or "best",
        measured,
        number(theirs.value, 3 if theirs.ours == "score" else 1),
        *_ours(result, theirs),
    )


def _ours(result: SearchResults, theirs: Published) -> tuple[str, str, str, str, str]:
    """(figure, half of its interval, n, trial, basis) of our best trial at that point."""
    nothing = ("–", "–", "–", "–", "–")
    if theirs.ours is None:
        return nothing
    metric = METRICS[theirs.ours]
    there = [trial for trial in result.trials if trial.method == theirs.method and _is_at(result, trial, theirs.at)]
    best = _confirmed(there, theirs) or _searched(there, theirs, metric)
    if best is None:
        return nothing
    figures, trial, basis = best
    value, low, high = (figures.get(name, math.nan) for name in (metric.key, *(metric.interval or ("", ""))))
    return metric.write(value), metric.write((high - low) / 2), str(figures["n"]), trial.name, basis


def _confirmed(there: Sequence[TrialResult], theirs: Published) -> Best | None:
    """The winner on unseen prompts; a confirmation has win rates alone, and those of the whole schedule."""
    best = winner(there, theirs.method)
    if best is None or best.confirmed is None or theirs.ours != "win_rate" or SCHEDULE in theirs.at:
        return None
    return quoted(best), best, CONFIRMED


def _searched(there: Sequence[TrialResult], theirs: Published, metric: Metric) -> Best | None:
    """The best on the search's own prompts, by the figure that is compared."""
    found = [({**end.metrics, **vars(end)}, trial, SEARCHED) for trial, end in _ends(there, theirs.at)]
    able = [best for best in found if math.isfinite(best[0].get(metric.key, math.nan))]
    return max(able, key=lambda best: best[0][metric.key], default=None)


def _ends(trials: Sequence[TrialResult], at: Mapping[str, Value]) -> Iterator[tuple[TrialResult, Evaluation]]:
    """Fully trained trials with the evaluation that counts: the last, or the one at a point of the schedule."""
    for trial in filter(fully_trained, trials):
        found = [e for e in trial.history if math.isclose(e.fraction, float(at.get(SCHEDULE, 1.0)), abs_tol=1e-6)]
        if found:
            yield trial, found[-1]


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
