"""Parallel coordinates: each fully trained trial as a line over its hyperparameters and what winners are chosen by.

A hyperparameter that a trial does not have, because a condition left it out, is a point below its axis.
Drawn with plain lines rather than Plotly's own `parcoords`, which needs WebGL and cannot follow a page's colours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from raypo.search.results import SearchResults, TrialResult, Value
from raypo.tracking.compare import maximised, winner
from raypo.tracking.figures import FAINT, LIMIT, colour, figure, heights, hover, objective
from raypo.tracking.importance import is_log, is_number, searched
from raypo.tracking.tables import plain

UNSET = -0.16


def parallel(results: SearchResults, method: str) -> go.Figure | None:
    """Draw the trials of a method, the upper third in its colour; None where fewer than two can be drawn."""
    trials = [t for t in results.trials if t.method == method and t.standing is not None][-LIMIT:]
    columns = [name for name in searched(results, method) if any(name in t.hyperparameters for t in trials)]
    if not columns or len(trials) < 2:
        return None
    values: dict[str, list[Value | None]] = {name: [t.hyperparameters.get(name) for t in trials] for name in columns}
    metric = maximised(results)
    values[metric.axis] = list(heights(trials, metric))
    placed = [_placed(column) for column in values.values()]
    order = sorted(range(len(trials)), key=lambda index: objective(trials[index]))
    upper, best = order[2 * len(order) // 3 :], winner(results.trials, method)
    traces = []
    for index in order:
        shade = colour(results, method) if index in upper else FAINT
        width = 3.5 if trials[index] == best else 1.2
        traces.append(_line(trials[index], [column[index] for column in placed], shade, width))
    names, gaps = list(values), any(None in column for column in values.values())
    across = {"tickvals": list(range(len(names))), "ticktext": names, "range": [-0.15, len(names) - 0.85]}
    return figure(
        traces,
        "",
        "",
        height=300,
        margin={"l": 28, "r": 28, "t": 34, "b": 40},
        showlegend=False,
        xaxis={**across, "showgrid": False, "showline": False},
        yaxis={"visible": False, "range": [UNSET - 0.06 if gaps else -0.08, 1.08]},
        annotations=[note for index, column in enumerate(values.values()) for note in _ends(index, column)],
        shapes=[_rule(index) for index in range(len(names))],
    )


def _placed(values: Sequence[Value | None]) -> list[float]:
    """Place values between 0 and 1 along their axis, choices in the order of their names, what is not set below."""
    found = [value for value in values if value is not None]
    heights = iter(_within(found))
    return [UNSET if value is None else next(heights) for value in values]


def _within(values: list[Value]) -> list[float]:
    if not all(is_number(value) for value in values):
        names = sorted({str(value) for value in values})
        return [names.index(str(value)) / max(1, len(names) - 1) for value in values]
    numbers = [math.log(float(value)) if is_log(values) else float(value) for value in values]
    low, high = min(numbers), max(numbers)
    return [(value - low) / (high - low) if high > low else 0.5 for value in numbers]


def _line(trial: TrialResult, heights: list[float], shade: str, width: float) -> Any:
    points = {"x": list(range(len(heights))), "y": heights}
    line = {"color": shade, "width": width}
    return go.Scatter(**points, mode="lines", line=line, hovertext=hover(trial), hoverinfo="text")


def _ends(index: int, values: Sequence[Value | None]) -> list[dict[str, Any]]:
    ordered = sorted((v for v in values if v is not None), key=lambda v: v if is_number(v) else str(v))
    shared = {"x": index, "showarrow": False, "font": {"size": 11}}
    top = {**shared, "y": 1, "yshift": 12, "text": plain(ordered[-1])}
    bottom = {**shared, "y": 0, "yshift": -10, "text": plain(ordered[0])}
    unset = [{**shared, "y": UNSET, "yshift": -10, "text": "not set"}] if None in values else []
    return [top, bottom, *unset]


def _rule(index: int) -> dict[str, Any]:
    return {"type": "line", "x0": index, "x1": index, "y0": 0, "y1": 1, "line": {"color": FAINT, "width": 1}}
