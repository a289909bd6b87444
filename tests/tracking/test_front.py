"""What a comparison says of other objectives than the win rate: the front, the metric, and races."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import plotly.graph_objects as go
import pytest

from raypo.evaluation.goals import front, value_of
from raypo.search.results import SearchResults, TrialResult
from raypo.tracking import charts
from raypo.tracking.compare import as_json, caption, compare, winner
from raypo.tracking.fronts import fronts
from raypo.tracking.overview import figures
from raypo.tracking.parallel import parallel
from raypo.tracking.report import page
from raypo.tracking.significance import significance, verdict
from raypo.tracking.status import as_json as status_json
from raypo.tracking.status import to_rich
from raypo.tracking.tables import headline, render, side_by_side, tables


def with_objective(results: SearchResults, **keys: Any) -> SearchResults:
    trials = tuple(aiming(trial, keys.get("pareto", ())) for trial in results.trials)
    study = {**results.study, "objective": {**results.study["objective"], **keys}}
    return replace(results, study=study, trials=trials)


def aiming(trial: TrialResult, goals: Sequence[str]) -> TrialResult:
    """The trial as a search of several objectives leaves it."""
    if not goals or not trial.history:
        return trial
    found = {**vars(trial.history[-1]), **trial.history[-1].metrics}
    last = replace(trial.history[-1], objectives=tuple(value_of(found, goal) for goal in goals))
    return replace(trial, history=(*trial.history[:-1], last))


def measured(trial: TrialResult, **metrics: float) -> TrialResult:
    last = trial.history[-1]
    return replace(trial, history=(*trial.history[:-1], replace(last, metrics={**last.metrics, **metrics})))


def test_nobody_beats_a_point_of_the_front() -> None:
    points = [(0.6, -5.0), (0.5, -2.0), (0.6, -6.0), (0.4, -2.5), (0.5, -2.0)]
    assert front(points) == [0, 1, 4]
    assert front([()]) == [0]


def test_the_front_of_each_method_is_what_no_other_trial_of_it_beats(results: SearchResults) -> None:
    searched = with_objective(results, pareto=["win_rate", "-kl"])
    found = as_json(compare(searched))
    assert found["objective"] == ["win_rate", "-kl"]
    for method in results.methods:
        able = {
            t.name: (t.history[-1].win_rate, t.history[-1].kl)
            for t in results.trials
            if t.method == method and t.state == "finished"
        }
        points = {
            p["trial"]: (p["values"]["win_rate"], p["values"]["kl"]) for p in found["front"] if p["method"] == method
        }
        assert points.items() <= able.items()
        for name, (rate, kl) in able.items():
            beaten = any(r >= rate and k <= kl and (r, k) != (rate, kl) for r, k in able.values())
            assert (name in points) == (not beaten)
        assert winner(searched.trials, method).name in points
    assert all(set(p) == {"method", "trial", "hyperparameters", "n", "values"} for p in found["front"])


def test_an_estimate_of_kl_below_zero_stays_below_zero(results: SearchResults) -> None:
    searched = with_objective(results, pareto=["win_rate", "-kl"])
    best = winner(searched.trials, "dpo")
    below = aiming(replace(best, history=(*best.history[:-1], replace(best.history[-1], kl=-0.8))), ["win_rate", "-kl"])
    searched = replace(searched, trials=tuple(below if trial == best else trial for trial in searched.trials))
    comparison = compare(searched)
    point = next(p for p in as_json(comparison)["front"] if p["trial"] == best.name)
    assert point["values"] == {"win_rate": best.history[-1].win_rate, "kl": -0.8}
    ((_, drawn),) = fronts(searched)
    assert (-0.8, 100 * best.history[-1].win_rate) in places_of(drawn, solid=True)
    assert "-0.8" in str([row for row in tables([comparison])[1].rows if best.name in row])


def test_the_front_is_printed_below_the_winners_and_stands_in_the_report(results: SearchResults) -> None:
    comparison = compare(with_objective(results, pareto=["win_rate", "-kl"]))
    first, second = tables([comparison])
    assert second.columns == ("method", "trial", "configuration", "win_rate %", "kl", "n")
    assert len(second.rows) == len(comparison.front)
    assert caption(comparison).endswith("Winners by win_rate, the first of win_rate, -kl.")
    assert render([comparison], "markdown").count("| method |") == 2
    assert "The front" in page(with_objective(results, pareto=["win_rate", "-kl"]))
    assert "The front" not in page(results)
    assert first == headline(comparison)


def test_the_winner_is_chosen_by_the_metric_that_was_maximised(results: SearchResults) -> None:
    finished = [t.name for t in results.trials if t.method == "dpo" and t.state == "finished"]
    values = {name: i / 10 for i, name in enumerate(finished)}
    trials = tuple(measured(t, objective=values.get(t.name, 0.0)) for t in results.trials)
    comparison = compare(with_objective(replace(results, trials=trials), metric="score"))
    row = comparison.rows[0]
    assert (row.trial, row.objective) == (finished[-1], values[finished[-1]])
    assert "score" in headline(comparison).columns
    assert caption(comparison).endswith("Winners by score.")
    comparison = compare(with_objective(replace(results, trials=trials), metric="reward_accuracy"))
    assert caption(comparison).endswith("Winners by reward_accuracy, on the held-out pairs of the search.")


def by_controlled_rate(results: SearchResults) -> SearchResults:
    """A search for the length-controlled win rate, whose methods stand the other way round than by the win rate."""
    rates = {"dpo": 0.62, "ipo": 0.70, "simpo": 0.50, "epsilon_dpo": 0.48}
    trials = tuple(
        measured(t, objective=rates[t.method] - t.number / 1000, lc_win_rate=rates[t.method]) if t.history else t
        for t in results.trials
    )
    return with_objective(replace(results, trials=trials), metric="lc_win_rate")


def test_the_method_that_is_ahead_is_so_by_what_was_maximised(results: SearchResults) -> None:
    searched = by_controlled_rate(results)
    said = verdict(compare(searched), significance(searched))
    assert said == (
        "ipo is ahead with length-controlled win rate 70.0 %; "
        "whether by more than chance is not tested, only win rates are."
    )
    alone = replace(compare(searched), rows=compare(searched).rows[:1])
    assert verdict(alone, []) == "dpo is ahead with length-controlled win rate 62.0 %."
    near = tuple(measured(t, objective=-t.history[-1].kl) if t.history else t for t in results.trials)
    searched = with_objective(replace(results, trials=near), pareto=["-kl", "win_rate"])
    first = min((winner(near, method) for method in results.methods), key=lambda trial: trial.estimate.kl)
    said = verdict(compare(searched), significance(searched))
    assert said.startswith(f"{first.method} is ahead with KL to the reference {first.estimate.kl:.2f} nats;")


def test_what_was_maximised_is_drawn(results: SearchResults) -> None:
    """Against hyperparameters, cost and in parallel coordinates; a tie is marked, and intervals are its own."""
    trials = tuple(
        measured(t, objective=0.4, lc_win_rate=0.4, lc_ci_low=0.3, lc_ci_high=0.45) if t.history else t
        for t in results.trials
    )
    searched = with_objective(replace(results, trials=trials), metric="lc_win_rate")
    drawn = charts.slice_of(searched, "dpo", "beta")
    assert drawn.layout.yaxis.title.text == "length-controlled win rate, %"
    (points,) = drawn.data
    assert list(points.y) == pytest.approx([40.0] * len(points.y))
    assert (points.error_y.array[0], points.error_y.arrayminus[0]) == pytest.approx((5.0, 10.0))
    assert len(drawn.layout.shapes) == 1
    assert charts.budget(searched).data[0].y[-1] == pytest.approx(40.0)
    assert parallel(searched, "dpo").layout.xaxis.ticktext[-1] == "length-controlled win rate, %"


def test_what_was_minimised_is_drawn_as_it_was_measured(results: SearchResults) -> None:
    trials = tuple(measured(t, objective=-t.history[-1].kl) if t.history else t for t in results.trials)
    searched = with_objective(replace(results, trials=trials), pareto=["-kl", "win_rate"])
    drawn = charts.slice_of(searched, "dpo", "beta")
    assert drawn.layout.yaxis.title.text == "KL to the reference, nats"
    assert not drawn.layout.shapes, "nobody ties in KL"
    least = winner(trials, "dpo").estimate.kl
    assert min(drawn.data[0].y) == pytest.approx(least)
    curve = charts.budget(searched).data[0].y
    assert curve[-1] == pytest.approx(least)
    assert list(curve) == sorted(curve, reverse=True), "it never rises"


def test_what_was_maximised_is_written_in_its_unit_in_every_table(results: SearchResults) -> None:
    searched = by_controlled_rate(results)
    comparison = compare(searched)
    place = headline(comparison).columns.index("lc_win_rate %")
    assert [row[place] for row in headline(comparison).rows] == ["62.0", "70.0", "50.0", "48.0"]
    both = side_by_side([comparison, compare(replace(results, name="other"))])
    assert both.columns == ("method", "rhymes: lc_win_rate %", "other: win_rate %")
    assert both.rows[1][1] == "70.0"
    assert "length-controlled win rate, %" in side_by_side([comparison, comparison]).title
    shown = to_rich(searched, None, {})
    column = next(c for c in shown.columns if c.header == "lc_win_rate %")
    assert next(iter(column.cells)) == "62.0"
    assert status_json(searched, None, {})["trials"][0]["objective"] == 0.62


def test_a_trial_that_was_raced_out_wins_over_no_fully_judged_one(results: SearchResults) -> None:
    best = winner(results.trials, "dpo")
    raced = replace(results, trials=tuple(measured(t, not_judged=100) if t == best else t for t in results.trials))
    assert winner(raced.trials, "dpo").name != best.name
    alone = [trial for trial in raced.trials if trial.name == best.name]
    assert winner(alone, "dpo").name == best.name


def test_a_configuration_of_which_every_seed_failed_does_not_win(results: SearchResults) -> None:
    lost = {"win_rate": 0.0, "ci_low": 0.0, "ci_high": 1.0, "n": 0, "seeds": 0, "spread": 0.0}
    held = {"win_rate": 0.4, "ci_low": 0.3, "ci_high": 0.5, "n": 9, "seeds": 2, "spread": 0.1, "objective": -30.0}
    first, second = [t for t in results.trials if t.method == "dpo" and t.state == "finished"][:2]
    trials = (replace(first, confirmation=lost), replace(second, confirmation=held))
    assert winner(trials, "dpo").name == second.name


def test_every_front_is_drawn_with_all_trials_and_its_members_filled(results: SearchResults) -> None:
    searched = with_objective(results, pareto=["win_rate", "-kl"])
    ((name, drawn),) = fronts(searched)
    assert name == "kl"
    assert "win rate, %" in drawn.layout.yaxis.title.text
    assert "against start, judge rule quickstart" in drawn.layout.yaxis.title.text
    assert drawn.layout.xaxis.title.text == "KL to the reference, nats"
    able = {
        (trial.history[-1].kl, 100 * trial.history[-1].win_rate)
        for trial in results.trials
        if trial.state == "finished" and trial.fraction == 1
    }
    places = {solid: places_of(drawn, solid) for solid in (True, False)}
    assert places[True] | places[False] == able
    unbeaten = {(p.values["kl"], 100 * p.values["win_rate"]) for p in compare(searched).front}
    assert places[True] == unbeaten
    assert not places[False] & unbeaten
    for trace in drawn.data:
        joined = "lines" in trace.mode
        assert joined == (not trace.marker.symbol.endswith("-open"))
        assert not joined or list(trace.y) == sorted(trace.y), "at a higher KL a front has a higher win rate"


def places_of(drawn: go.Figure, solid: bool) -> set[tuple[float, float]]:
    traces = [trace for trace in drawn.data if trace.marker.symbol.endswith("-open") != solid]
    return {place for trace in traces for place in zip(trace.x, trace.y, strict=True)}


def test_three_goals_are_drawn_two_by_two_and_one_goal_not_at_all(results: SearchResults) -> None:
    trials = tuple(measured(trial, score=trial.number / 4) if trial.history else trial for trial in results.trials)
    scored = with_objective(replace(results, trials=trials), pareto=["-length", "win_rate", "score"])
    drawn = dict(fronts(scored))
    assert list(drawn) == ["win_rate", "score"]
    assert [drawn["score"].layout[axis].title.text for axis in ("xaxis", "yaxis")] == [
        "score, judge rule quickstart",
        "length, tokens",
    ]
    assert {trace.mode for trace in drawn["score"].data} == {"markers"}
    members = {(p.values["score"], p.values["length"]) for p in compare(scored).front}
    assert places_of(drawn["score"], True) == members
    assert page(scored).count("with each front") == 2
    assert [name for name, _ in figures(scored) if name.startswith("fronts")] == ["fronts/win_rate", "fronts/score"]
    assert not dict(fronts(results))
    assert "with each front" not in page(results)
