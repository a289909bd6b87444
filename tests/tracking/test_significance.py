"""Whether winners differ: on which answers, and how much the report may claim."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic import write_search

from raypo.evaluation.paired import paired_difference
from raypo.search.results import SearchResults, TrialResult
from raypo.tracking.compare import compare, winner
from raypo.tracking.record import quoted_scores
from raypo.tracking.report import page
from raypo.tracking.significance import Pair, significance, verdict

UNSEEN = [f"unseen {i}" for i in range(40)]


def write_answers(folder: Path, scores: Mapping[str, float], fraction: float = 1.0) -> None:
    folder.mkdir(exist_ok=True)
    rows = [{"prompt": prompt, "fraction": fraction, "score": score} for prompt, score in scores.items()]
    pq.write_table(pa.Table.from_pylist(rows), folder / "completions.parquet")


def confirmed(trial: TrialResult, rates: Sequence[float], failed: Sequence[int] = ()) -> TrialResult:
    """A trial whose seeds won so much on the unseen prompts; some left answers behind and failed."""
    seeds = {k: (np.arange(len(UNSEEN)) < rate * len(UNSEEN)).astype(float) for k, rate in enumerate(rates)}
    for k, scores in seeds.items():
        write_answers(trial.folder.with_name(f"{trial.name}.s{k}"), dict(zip(UNSEEN, scores.tolist(), strict=True)))
    mean = float(np.mean([scores for k, scores in seeds.items() if k not in failed]))
    figures = {"win_rate": mean, "ci_low": mean - 0.1, "ci_high": mean + 0.1, "n": len(UNSEEN), "spread": 0.0}
    named = {f"{trial.name}.s{k}": "out of memory" for k in failed}
    return replace(trial, confirmation={**figures, "seeds": len(rates) - len(failed), "failed": named})


def with_winners(results: SearchResults, made: Mapping[str, TrialResult]) -> SearchResults:
    names = {trial.name: trial for trial in made.values()}
    return replace(results, trials=tuple(names.get(trial.name, trial) for trial in results.trials))


def pair(first: str, second: str, difference: float, p_value: float) -> Pair:
    return Pair(first, second, difference, difference - 0.01, difference + 0.01, p_value, 100)


def test_differences_are_paired_and_corrected(results: SearchResults) -> None:
    pairs = significance(results)
    assert len(pairs) == 6
    found = pairs[0]
    best = [quoted_scores(winner(results.trials, method)) for method in (found.first, found.second)]
    alone = paired_difference([best[0][p] for p in best[0]], [best[1][p] for p in best[0]])
    assert found.difference == pytest.approx(alone.difference)
    rates = [winner(results.trials, method).estimate.win_rate for method in (found.first, found.second)]
    assert found.difference == pytest.approx(rates[0] - rates[1])
    assert found.p_value >= alone.p_value
    assert found.n == 120


def test_confirmed_winners_are_compared_by_the_answers_of_their_confirmation(tmp_path: Path) -> None:
    results = write_search(tmp_path, trials=2)
    best = {method: winner(results.trials, method) for method in results.methods}
    searched = {method: trial.estimate.win_rate for method, trial in best.items()}
    rates = {method: 0.9 - searched[method] / 2 for method in best}
    made = {method: confirmed(trial, (rates[method], 0.5, 1.0), failed=[2]) for method, trial in best.items()}
    again = with_winners(results, made)
    quoted = {row.method: row.win_rate for row in compare(again).rows}
    for found in significance(again):
        assert found.difference == pytest.approx(quoted[found.first] - quoted[found.second])
        assert found.n == len(UNSEEN)
    assert "no winner was picked on these" in page(again)
    assert "look better than they are" not in page(again)


def test_a_confirmed_winner_is_told_from_no_unconfirmed_one(tmp_path: Path) -> None:
    results = write_search(tmp_path, trials=2)
    results = replace(results, trials=tuple(t for t in results.trials if t.method in ("dpo", "ipo")), study={})
    again = with_winners(results, {"dpo": confirmed(winner(results.trials, "dpo"), (1.0, 1.0))})
    assert significance(again) == []
    assert verdict(compare(again), significance(again)).endswith("cannot tell it from ipo.")


def test_the_answers_of_further_seeds_count_as_much_as_those_of_the_first(tmp_path: Path) -> None:
    results = write_search(tmp_path, trials=1)
    trial = results.trials[0]
    last = replace(trial.history[-1], metrics={**trial.history[-1].metrics, "seeds": 3})
    write_answers(trial.folder, {"a": 1.0, "b": 0.0})
    write_answers(trial.folder.with_name(f"{trial.name}.r1"), {"a": 0.0, "b": 0.0})
    write_answers(trial.folder.with_name(f"{trial.name}.r2"), {"a": 0.5, "b": 0.0})
    assert quoted_scores(replace(trial, history=(last,))) == {"a": 0.5, "b": 0.0}


def test_scores_of_a_prompt_that_repeats_are_averaged(tmp_path: Path) -> None:
    trial = write_search(tmp_path, trials=1).trials[0]
    scores = [("a", 1 / 3, 0.0), ("a", 1.0, 1.0), ("a", 1.0, 0.0), ("b", 1.0, float("nan")), ("c", 1.0, 0.5)]
    rows = [{"prompt": prompt, "fraction": fraction, "score": score} for prompt, fraction, score in scores]
    pq.write_table(pa.Table.from_pylist(rows), trial.folder / "completions.parquet")
    assert quoted_scores(trial) == {"a": 0.5, "c": 0.5}


def test_the_verdict_is_certain_only_where_the_best_beats_every_other_method_for_certain(
    results: SearchResults,
) -> None:
    comparison = compare(results)
    best, *others = sorted(comparison.rows, key=lambda row: -row.win_rate)
    for_certain = [pair(best.method, row.method, 0.1, 0.001) for row in others]
    assert verdict(comparison, for_certain).endswith("%, more than chance explains.")
    second, third, fourth = (row.method for row in others)
    assert verdict(comparison, []).endswith(f"cannot tell it from {second}, {third} and {fourth}.")
    for other in (
        [],
        [pair(best.method, others[0].method, 0.1, 0.2)],
        [pair(best.method, others[0].method, -0.1, 0.001)],
        [pair(others[0].method, best.method, 0.1, 0.001)],
        [pair(others[0].method, others[1].method, 0.1, 0.001)],
    ):
        said = verdict(comparison, [*for_certain[1:], *other])
        assert said.endswith(f"these data cannot tell it from {others[0].method}."), other


def test_the_verdict_on_one_method_compares_nothing(results: SearchResults) -> None:
    alone = replace(compare(results), rows=compare(results).rows[:1])
    assert verdict(alone, []).endswith(" %.")
