"""The style that a report's figures share: one colour and one marker per method, axes with names, nothing else.

Colours are Okabe and Ito's, which colour-blind readers can tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from raypo.evaluation.metrics import Metric
from raypo.search.results import Evaluation, SearchResults, TrialResult
from raypo.tracking.compare import measured
from raypo.tracking.tables import configuration, plain

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star")
FAINT = "rgba(127,127,127,0.45)"
LIMIT = 400


def figure(traces: Sequence[Any], x: str, y: str, height: int = 320, **layout: Any) -> go.Figure:
    """Make a figure in the report's style: nothing but the data, its axes and their names."""
    drawn = go.Figure(data=list(traces))
    drawn.update_layout(
        template="none",
        height=height,
        margin={"l": 56, "r": 12, "t": 12, "b": 48},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        hovermode="closest",
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        xaxis={"title": {"text": x}, "zeroline": False, "automargin": True},
        yaxis={"title": {"text": y}, "zeroline": False, "automargin": True},
    )
    return drawn.update_layout(**layout)


def colour(results: SearchResults, method: str) -> str:
    """Return the colour of a method, the same in every figure."""
    return COLOURS[results.methods.index(method) % len(COLOURS)]


def symbol(results: SearchResults, method: str) -> str:
    """Return the marker of a method, the same in every figure."""
    return SYMBOLS[results.methods.index(method) % len(SYMBOLS)]


def last(trial: TrialResult) -> Evaluation:
    assert trial.estimate is not None
    return trial.estimate


def objective(trial: TrialResult) -> float:
    """What a fully trained trial is ranked by, larger is better."""
    assert trial.standing is not None
    return trial.standing.objective


def error(rate: float, low: float, high: float) -> dict[str, Any]:
    sides = {"array": [100 * (high - rate)], "arrayminus": [100 * (rate - low)]}
    return {"type": "data", "symmetric": False, **sides, "thickness": 2, "width": 5}


def heights(trials: Sequence[TrialResult], metric: Metric) -> list[float]:
    """What a metric of each trial's latest evaluation is, in its unit; nan where it has none."""
    return [metric.scale * _figure(trial, metric.key) for trial in trials]


def errors(trials: Sequence[TrialResult], metric: Metric) -> dict[str, Any]:
    """The trials' intervals of a metric, for those that have one."""
    if metric.interval is None:
        return {"visible": False}
    low, high = metric.interval
    found = [[metric.scale * _figure(trial, name) for name in (low, metric.key, high)] for trial in trials]
    sides = {"array": [top - at for _, at, top in found], "arrayminus": [at - bottom for bottom, at, _ in found]}
    return {"type": "data", "symmetric": False, **sides, "thickness": 1, "width": 0}


def _figure(trial: TrialResult, name: str) -> float:
    return float(measured(trial).get(name, math.nan))


def hover(trial: TrialResult) -> str:
    point = last(trial)
    rate = f"{100 * point.win_rate:.1f} % [{100 * point.ci_low:.1f}, {100 * point.ci_high:.1f}]"
    return f"{trial.name}: {rate}, KL {point.kl:.2f}<br>{configuration(trial.hyperparameters)}"


def log_axis(values: Sequence[Any]) -> dict[str, Any]:
    """Lay out a logarithmic axis with few ticks, written as a study file would have them."""
    low, high = math.log10(min(values)), math.log10(max(values))
    decades = range(math.floor(low), math.ceil(high) + 1)
    ticks = [digit * 10.0**decade for decade in decades for digit in ((1, 3) if high - low < 2.5 else (1,))]
    margin = 0.08 * (high - low)
    ends = [low - margin, high + margin]
    return {"type": "log", "range": ends, "tickvals": ticks, "ticktext": [plain(tick) for tick in ticks]}
