"""The figures of a report: what was tried, what came of it, and what it cost; each small enough for a phone."""

from __future__ import annotations

import math
from typing import Any

import plotly.graph_objects as go

from raypo.evaluation.goals import as_measured
from raypo.search.results import Evaluation, SearchResults, TrialResult
from raypo.tracking.compare import compare, fully_trained, goals_of, maximised, winner
from raypo.tracking.figures import (
    FAINT,
    LIMIT,
    colour,
    error,
    errors,
    figure,
    heights,
    hover,
    last,
    log_axis,
    objective,
    symbol,
)
from raypo.tracking.importance import importances, is_log, is_number
from raypo.tracking.record import step_log
from raypo.tracking.tables import configuration

TIED_AT = {"win_rate": 50, "lc_win_rate": 50}
"""Where a figure says that policy and opponent are as good, in its unit."""


def forest(results: SearchResults) -> go.Figure:
    """Draw the winners' win rates with their intervals, one line per method, and the line of a tie."""
    rows = [row for row in reversed(compare(results).rows) if row.win_rate is not None]
    traces = [
        go.Scatter(
            x=[100 * (row.win_rate or 0)],
            y=[row.method],
            error_x=error(row.win_rate or 0, row.ci_low or 0, row.ci_high or 0),
            mode="markers",
            marker={"size": 11, "color": colour(results, row.method), "symbol": symbol(results, row.method)},
            hovertext=[configuration(row.hyperparameters)],
            hovertemplate="%{y}: %{x:.1f} %<br>%{hovertext}<extra></extra>",
            showlegend=False,
        )
        for row in rows
    ]
    drawn = figure(traces, "win rate, %", "", height=90 + 44 * len(rows))
    return drawn.add_vline(x=50, line={"dash": "dot", "width": 1, "color": FAINT})


def slice_of(results: SearchResults, method: str, name: str) -> go.Figure | None:
    """Draw what the winners are chosen by against one hyperparameter, with intervals, a method's winner filled.

    None for one trial.
    """
    trials = [t for t in results.trials if t.method == method and fully_trained(t) and name in t.hyperparameters]
    if len(trials) < 2:
        return None
    best, metric = winner(results.trials, method), maximised(results)
    values = [trial.hyperparameters[name] for trial in trials]
    trace = go.Scatter(
        x=values if all(is_number(value) for value in values) else [str(value) for value in values],
        y=heights(trials, metric),
        error_y=errors(trials, metric),
        mode="markers",
        marker={
            "size": [13 if trial == best else 8 for trial in trials],
            "symbol": [symbol(results, method) + ("" if trial == best else "-open") for trial in trials],
            "color": colour(results, method),
            "opacity": 1,
        },
        hovertext=[hover(trial) for trial in trials],
        hoverinfo="text",
        showlegend=False,
    )
    drawn = figure([trace], name, metric.axis, height=270)
    if metric.name in TIED_AT:
        drawn.add_hline(y=TIED_AT[metric.name], line={"dash": "dot", "width": 1, "color": FAINT})
    return drawn.update_xaxes(**log_axis(values)) if is_log(values) else drawn


def importance_bars(results: SearchResults) -> go.Figure | None:
    """Draw the importance of each hyperparameter, grouped by method; None where there are too few trials."""
    found = {method: importances(results, method) for method in results.methods}
    if not any(found.values()):
        return None
    names = list(dict.fromkeys(name for shares in found.values() for name in shares))
    traces = [
        go.Bar(
            y=names,
            x=[shares.get(name) for name in names],
            name=method,
            orientation="h",
            marker={"color": colour(results, method)},
            hovertemplate=f"{method}: %{{y}} %{{x:.2f}}<extra></extra>",
        )
        for method, shares in found.items()
        if shares
    ]
    drawn = figure(traces, "share of the variation among the best", "", height=110 + 26 * len(names) * len(traces))
    return drawn.update_yaxes(autorange="reversed")


def front(results: SearchResults) -> go.Figure:
    """Draw win rate against KL of all fully trained trials, and the front: no trial has more of one for less of the
    other."""
    trials = [trial for trial in results.trials if fully_trained(trial)]
    traces: list[Any] = [_points(results, method, trials) for method in results.methods]
    best: list[Evaluation] = []
    for point in sorted((last(trial) for trial in trials), key=lambda point: (point.kl, -point.win_rate)):
        if not best or point.win_rate > best[-1].win_rate:
            best.append(point)
    edge = {"x": [point.kl for point in best], "y": [100 * point.win_rate for point in best]}
    line = {"shape": "hv", "width": 1.5, "color": FAINT}
    return figure(
        [go.Scatter(**edge, mode="lines", line=line, name="front", hoverinfo="skip"), *traces],
        "KL to the reference, nats",
        "win rate, %",
        height=400,
    )


def over_optimisation(results: SearchResults) -> go.Figure:
    """Draw win rate against KL over training: a line per trial through its evaluations, the winners' in colour."""
    best = {method: winner(results.trials, method) for method in results.methods}
    others = [trial for trial in results.trials if len(trial.history) > 1 and trial not in best.values()][:LIMIT]
    traces = [_path(results, trial, faint=True) for trial in others]
    traces += [_path(results, trial, faint=False) for trial in best.values() if trial is not None]
    return figure(traces, "KL to the reference, nats", "win rate, %", height=400)


def learning(results: SearchResults, metric: str) -> go.Figure | None:
    """Draw one logged metric of the winners over training; None where no winner has logged it."""
    traces = []
    for method in results.methods:
        best = winner(results.trials, method)
        rows = [row for row in step_log(best.folder) if metric in row] if best else []
        rows = rows[:: max(1, len(rows) // LIMIT)]
        if rows:
            line = {"color": colour(results, method), "width": 2}
            points = {"x": [row.get("fraction", row["step"]) for row in rows], "y": [row[metric] for row in rows]}
            traces.append(go.Scatter(**points, mode="lines", line=line, name=method))
    return figure(traces, "part of the schedule", metric, height=300) if traces else None


def budget(results: SearchResults) -> go.Figure:
    """Draw the best of what the winners are chosen by so far, of each method, against the device-hours spent on it."""
    traces, metric, goal = [], maximised(results), goals_of(results)[0]
    for method in results.methods:
        spent, best, xs, ys = 0.0, -math.inf, [], []
        for trial in (trial for trial in results.trials if trial.method == method):
            spent += trial.cost_s / 3600
            if trial.standing is not None:
                best = max(best, objective(trial))
            if math.isfinite(best):
                xs.append(spent)
                ys.append(metric.scale * as_measured(best, goal))
        line = {"shape": "hv", "color": colour(results, method), "width": 2}
        traces.append(go.Scatter(x=xs, y=ys, mode="lines+markers", line=line, marker={"size": 5}, name=method))
    return figure(traces, "device-hours", f"best so far: {metric.axis}", height=340)


def _points(results: SearchResults, method: str, trials: list[TrialResult]) -> Any:
    own = [trial for trial in trials if trial.method == method]
    return go.Scatter(
        x=[last(trial).kl for trial in own],
        y=[100 * last(trial).win_rate for trial in own],
        mode="markers",
        marker={"size": 9, "color": colour(results, method), "symbol": symbol(results, method)},
        name=method,
        hovertext=[hover(trial) for trial in own],
        hoverinfo="text",
    )


def _path(results: SearchResults, trial: TrialResult, *, faint: bool) -> Any:
    shade = FAINT if faint else colour(results, trial.method)
    return go.Scatter(
        x=[point.kl for point in trial.history],
        y=[100 * point.win_rate for point in trial.history],
        mode="lines" if faint else "lines+markers",
        line={"color": shade, "width": 1 if faint else 2.5},
        marker={"size": 8, "symbol": symbol(results, trial.method)},
        name=trial.method,
        showlegend=not faint,
        hovertext=[f"{trial.name} at {point.fraction:.0%}" for point in trial.history],
        hoverinfo="text+x+y",
    )
