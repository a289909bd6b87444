"""One table of text, drawn as a terminal table, markdown, CSV or LaTeX.

Several searches stand side by side as the papers print them: a row per method, a column per setting. CSV is the
exception: it is for programs, so it holds plain numbers, one row per search and method.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.table import Table as RichTable

from raypo.errors import StudyError
from raypo.evaluation.goals import metric_of
from raypo.json import dumps
from raypo.tracking.compare import Comparison, MethodRow, as_json, caption
from raypo.tracking.measure import unlike

FORMATS = ("markdown", "csv", "json", "latex")
_LATEX = str.maketrans({"%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "$": r"\$", "±": r"$\pm$", "β": r"$\beta$"})


@dataclass(frozen=True)
class Table:
    """Rows of text under column names; `words` counts the leading columns that hold words, the rest hold numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str
    words: int = 1


def number(value: float | None, digits: int = 1, scale: float = 1.0) -> str:
    """Write a number with fixed digits, or a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value * scale:.{digits}f}"


def signed(value: float, digits: int = 1) -> str:
    """Write a difference with its sign, a true minus, and no sign for what rounds to zero."""
    written = f"{value:+.{digits}f}"
    return f"{0:.{digits}f}" if float(written) == 0 else written.replace("-", "−")


def plain(value: Any) -> str:
    """Write a hyperparameter so that it reads well and can be typed back: four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def configuration(hyperparameters: Mapping[str, Any] | None) -> str:
    """Write hyperparameters on one line, `name=value` by `name=value`."""
    return " ".join(f"{name}={plain(value)}" for name, value in (hyperparameters or {}).items()) or "–"


def win_rate(row: MethodRow) -> str:
    """Write a win rate in per cent, with half the width of its 95 % interval."""
    if row.win_rate is None or row.ci_low is None or row.ci_high is None:
        return "–"
    return f"{number(row.win_rate, scale=100)} ± {number((row.ci_high - row.ci_low) / 2, scale=100)}"


def chosen_by(comparison: Comparison, row: MethodRow) -> str:
    """Write what a winner was chosen by; a win rate has its interval."""
    metric = comparison.metric
    return win_rate(row) if metric.name == "win_rate" else metric.write(comparison.chosen_by(row))


def headline(comparison: Comparison) -> Table:
    """Tabulate one search: the best configuration per method and how its trials ended."""
    named = ("method", "trial", "configuration", "win rate %", "95 % interval", "n", "KL", "length")
    chosen = comparison.metric.column not in ("win_rate %", "kl", "length")
    columns = (*named, comparison.metric.column) if chosen else named
    counts = ("finished", "pruned", "failed", "diverged")
    confirmed = any(row.confirmation for row in comparison.rows)
    beside = ("spread over seeds", "in the search %") if confirmed else ()
    rows = tuple(
        _cells(row)
        + ((chosen_by(comparison, row),) if chosen else ())
        + (_confirmation(row) if confirmed else ())
        + tuple(str(getattr(row, state)) for state in counts)
        for row in comparison.rows
    )
    return Table(comparison.search, columns + beside + counts, rows, caption(comparison), words=3)


def front(comparison: Comparison) -> Table:
    """Tabulate the configurations that no other of their method beats in all objectives of a Pareto search."""
    metrics = tuple(metric_of(goal) for goal in comparison.goals)
    rows = tuple(
        (p.method, p.trial, configuration(p.hyperparameters), *(m.write(p.values[m.name]) for m in metrics), str(p.n))
        for p in comparison.front
    )
    columns = ("method", "trial", "configuration", *(metric.column for metric in metrics), "n")
    said = f"No other trial of the method is as good in all of {', '.join(comparison.goals)} and better in one."
    return Table(f"{comparison.search}: front", columns, rows, said, words=3)


def _confirmation(row: MethodRow) -> tuple[str, str]:
    found = row.confirmation
    if found is None:
        return "–", "–"
    seeds = f"{found.seeds} of {found.seeds + len(found.failed)}" if found.failed else str(found.seeds)
    spread = f"± {number(found.spread, scale=100)}" if found.seeds else "–"
    return f"{spread} ({seeds})", number(found.search_win_rate, scale=100)


def side_by_side(comparisons: Sequence[Comparison]) -> Table:
    """Tabulate several searches: a row per method, a column per search with what its winners were chosen by."""
    methods = dict.fromkeys(row.method for comparison in comparisons for row in comparison.rows)
    found = {(c.search, row.method): chosen_by(c, row) for c in comparisons for row in c.rows}
    searches = tuple(comparison.search for comparison in comparisons)
    rows = tuple((method, *(found.get((search, method), "–") for search in searches)) for method in methods)
    metrics = list(dict.fromkeys(comparison.metric for comparison in comparisons))
    alike = len(metrics) == 1
    heads = searches if alike else tuple(f"{c.search}: {c.metric.column}" for c in comparisons)
    said: dict[str, list[str]] = {}
    for comparison in comparisons:
        said.setdefault(caption(comparison), []).append(comparison.search)
    text = " ".join(words if len(said) == 1 else f"{', '.join(names)}: {words}" for words, names in said.items())
    if apart := unlike([comparison.measure for comparison in comparisons]):
        text += f" Not of one measure, so compare within a column: the searches differ in {', '.join(apart)}."
    shown = metrics[0].axis if alike else "what each search chose its winners by"
    return Table(f"By method and search: {shown}", ("method", *heads), rows, text)


def tables(comparisons: Sequence[Comparison]) -> list[Table]:
    """Tabulate one search in full, or several side by side, and then the front of each that has several objectives."""
    first = headline(comparisons[0]) if len(comparisons) == 1 else side_by_side(comparisons)
    return [first, *(front(comparison) for comparison in comparisons if comparison.goals[1:])]


def render(comparisons: Sequence[Comparison], style: str) -> str:
    """Write comparisons as text in one of `FORMATS`; JSON of several searches is a list."""
    if style == "json":
        found = [as_json(comparison) for comparison in comparisons]
        return dumps(found[0] if len(found) == 1 else found, indent=2)
    if style == "csv":
        return to_csv(comparisons)
    if style not in FORMATS:
        raise StudyError(f"--format: no such format, got {style!r}; allowed: table, {', '.join(FORMATS)}")
    draw = to_markdown if style == "markdown" else to_latex
    return "\n\n".join(draw(content) for content in tables(comparisons))


def to_rich(content: Table) -> RichTable:
    """Draw a table for the terminal."""
    drawn = RichTable(title=content.title, caption=content.caption, box=box.SIMPLE_HEAD, title_style="bold")
    for index, column in enumerate(content.columns):
        drawn.add_column(column, justify="left" if index < content.words else "right", overflow="fold")
    for row in content.rows:
        drawn.add_row(*row)
    return drawn


def to_markdown(content: Table) -> str:
    """Write a table as GitHub markdown."""
    ruler = [":--" if index < content.words else "--:" for index in range(len(content.columns))]
    lines = [
        "| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in (content.columns, *content.rows)
    ]
    return "\n".join([lines[0], "|" + "|".join(ruler) + "|", *lines[1:], "", f"*{content.caption}*"])


def to_latex(content: Table) -> str:
    """Write a table as LaTeX for the booktabs package."""
    lines = [" & ".join(cell.translate(_LATEX) for cell in row) + r" \\" for row in (content.columns, *content.rows)]
    shape = "l" * content.words + "r" * (len(content.columns) - content.words)
    top = [r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{{shape}}}", r"\toprule", lines[0], r"\midrule"]
    return "\n".join(
        [
            *top,
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            rf"\caption{{{content.caption.translate(_LATEX)}}}",
            r"\end{table}",
        ]
    )


def to_csv(comparisons: Sequence[Comparison]) -> str:
    """Write comparisons as CSV: one row per search and method, win rates in [0, 1], what has parts as JSON."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["search", *MethodRow.__dataclass_fields__, "confirmed", "judge", "opponent"])
    writer.writeheader()
    for found in comparisons:
        measured = {"search": found.search, "judge": found.judge, "opponent": found.opponent}
        for row in found.rows:
            cells = asdict(row)
            nested = {
                "hyperparameters": dumps(cells["hyperparameters"]),
                "confirmation": dumps(cells["confirmation"]) if row.confirmation else "",
            }
            writer.writerow({**measured, **cells, **nested, "confirmed": row.confirmed})
    return text.getvalue()


def _cells(row: MethodRow) -> tuple[str, ...]:
    interval = "–" if row.ci_low is None else f"{number(row.ci_low, scale=100)} to {number(row.ci_high, scale=100)}"
    return (
        row.method,
        row.trial or "–",
        configuration(row.hyperparameters),
        win_rate(row),
        interval,
        "–" if row.n is None else str(row.n),
        number(row.kl, 2),
        number(row.length),
    )
