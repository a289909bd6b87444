"""The figures of a search with several goals: every fully trained trial, and those that none of their method beats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import plotly.graph_objects as go

from raypo.evaluation.goals import metric_of
from raypo.evaluation.metrics import Metric
from raypo.search.results import SearchResults, TrialResult
from raypo.tracking.compare import Comparison, compare, fully_trained, measured
from raypo.tracking.figures import colour, figure, symbol
from raypo.tracking.tables import configuration


def fronts(results: SearchResults) -> Iterator[tuple[str, go.Figure]]:
    """Yield the first goal against each of the others, by the other's name; none where there is one goal.

    Filled are trials that no other of their method beats in all goals. With two goals a line through them parts what
    the method reached from what it did not.
    """
    comparison = compare(results)
    first, *others = comparison.goals
    for other in others:
        metrics = (metric_of(other), metric_of(first))
        traces = [
            trace
            for method in results.methods
            for trace in _points(results, comparison, method, metrics, step="hv" if other.startswith("-") else "vh")
        ]
        across, up = (axis(comparison, metric) for metric in metrics)
        yield metrics[0].name, figure(traces, across, up, height=420).update_yaxes(title={"standoff": 12})


def axis(comparison: Comparison, metric: Metric) -> str:
    """Name an axis; a judged figure says by whom, and against whom."""
    if metric.name in ("win_rate", "lc_win_rate"):
        against = f"against {comparison.opponent}, judge {comparison.judge}"
        return f'{metric.axis}<br><span style="font-size:10px">{against}</span>'
    return f"{metric.axis}, judge {comparison.judge}" if metric.name == "score" else metric.axis


def _points(
    results: SearchResults, comparison: Comparison, method: str, metrics: Sequence[Metric], step: str
) -> Iterator[Any]:
    """The method's beaten trials, then its front in order along the horizontal axis."""
    able = [trial for trial in results.trials if trial.method == method and fully_trained(trial)]
    found = [(x, y, trial) for trial in able for x, y in _place(trial, metrics)]
    unbeaten = {point.trial for point in comparison.front}
    shade, shape = colour(results, method), symbol(results, method)
    for best in (False, True):
        shown = sorted(((x, y, t) for x, y, t in found if (t.name in unbeaten) == best), key=lambda point: point[:2])
        yield go.Scatter(
            x=[x for x, _, _ in shown],
            y=[y for _, y, _ in shown],
            mode="lines+markers" if best and len(comparison.goals) == 2 else "markers",
            line={"shape": step, "width": 1, "dash": "dot", "color": shade},
            marker={"size": 11 if best else 8, "color": shade, "symbol": shape + ("" if best else "-open")},
            name=method,
            legendgroup=method,
            showlegend=best,
            hovertext=[_hover(comparison, trial) for _, _, trial in shown],
            hoverinfo="text",
        )


def _place(trial: TrialResult, metrics: Sequence[Metric]) -> list[tuple[float, float]]:
    """Where a trial is drawn; nowhere without both figures."""
    known = measured(trial)
    across, up = metrics
    if across.key not in known or up.key not in known:
        return []
    return [(across.scale * known[across.key], up.scale * known[up.key])]


def _hover(comparison: Comparison, trial: TrialResult) -> str:
    known = measured(trial)
    metrics = [metric_of(goal) for goal in comparison.goals]
    said = ", ".join(f"{metric.name} {metric.say(known[metric.key])}" for metric in metrics if metric.key in known)
    return f"{trial.name}: {said}<br>{configuration(trial.hyperparameters)}"
