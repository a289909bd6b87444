import csv
import io
import json
import re
from dataclasses import replace

import pytest
from rich.console import Console

from raypo.cli.common import draw, out
from raypo.errors import StorageError, StudyError
from raypo.evaluation.completions import Judged
from raypo.json import dumps
from raypo.search.results import SearchResults, TrialResult
from raypo.terminal import Terminal
from raypo.tracking import showing, status
from raypo.tracking.compare import as_json, caption, compare, judge_name, winner
from raypo.tracking.diff import as_json as diff_as_json
from raypo.tracking.diff import diff
from raypo.tracking.tables import headline, render, side_by_side, to_rich

CONFIRMED = {
    "win_rate": 0.58,
    "ci_low": 0.55,
    "ci_high": 0.61,
    "n": 1000,
    "seeds": 3,
    "spread": 0.01,
    "kl": 7.5,
    "length": 44.0,
}

START = {"base-model": {"name": "small", "content": "x", "start": "x"}}
ALSO: list[dict[str, str]] = [{}, {"base_url": "http://b"}, {"template": "alpaca_eval"}]


def with_win_rate(trial: TrialResult, win_rate: float) -> TrialResult:
    return replace(trial, history=(*trial.history[:-1], replace(trial.history[-1], win_rate=win_rate)))


def changed(results: SearchResults, name: str, **fields: object) -> SearchResults:
    trials = tuple(replace(trial, **fields) if trial.name == name else trial for trial in results.trials)
    return replace(results, trials=trials)


def test_the_winner_has_the_highest_win_rate_among_fully_trained_trials(results: SearchResults) -> None:
    for method in results.methods:
        best = winner(results.trials, method)
        finished = [trial for trial in results.trials if trial.method == method and trial.state == "finished"]
        assert best is not None
        assert best.estimate.win_rate == max(trial.estimate.win_rate for trial in finished)


@pytest.mark.parametrize("number", [3, 8, 9])
def test_a_pruned_diverged_or_failed_trial_never_wins(results: SearchResults, number: int) -> None:
    name = f"dpo-{number:04d}"
    trials = tuple(
        replace(with_win_rate(trial, 0.99), fraction=1.0) if trial.name == name else trial for trial in results.trials
    )
    assert winner(trials, "dpo") == winner(results.trials, "dpo")


def test_a_finished_trial_that_was_not_trained_to_the_end_never_wins(results: SearchResults) -> None:
    best = winner(results.trials, "dpo")
    assert winner(changed(results, best.name, fraction=0.66).trials, "dpo").name != best.name


def test_a_win_rate_that_is_not_a_number_never_wins(results: SearchResults) -> None:
    best = winner(results.trials, "ipo")
    trials = tuple(with_win_rate(trial, float("nan")) if trial == best else trial for trial in results.trials)
    assert winner(trials, "ipo").name != best.name


def test_confirmed_trials_win_over_the_optimistic_figures_of_the_others(results: SearchResults) -> None:
    second = next(t for t in results.trials if t.method == "dpo" and t.state == "finished")
    assert second != winner(results.trials, "dpo")
    confirmed = changed(results, second.name, confirmation=CONFIRMED)
    row = next(row for row in compare(confirmed).rows if row.method == "dpo")
    assert (row.trial, row.win_rate, row.ci_low, row.ci_high, row.n) == (second.name, 0.58, 0.55, 0.61, 1000)
    assert (row.kl, row.length) == (7.5, 44.0), "all figures of a row come from the same answers"


def test_a_confirmation_of_which_every_seed_failed_changes_no_figure(results: SearchResults) -> None:
    plain = compare(results).rows[0]
    lost = {"seeds": 0, "failed": {f"{plain.trial}.s0": "out of memory", f"{plain.trial}.s1": "out of memory"}}
    searched = replace(results, study={**results.study, "objective": {"metric": "score", "judge": {"kind": "rule"}}})
    comparison = compare(changed(searched, plain.trial, confirmation=lost))
    row = comparison.rows[0]
    assert (row.trial, row.win_rate, row.n) == (plain.trial, plain.win_rate, plain.n)
    assert row.objective == plain.win_rate
    assert "; search estimate, optimistic" in caption(comparison)
    assert "– (0 of 2)" in headline(comparison).rows[0]
    second = next(t for t in results.trials if t.method == "dpo" and t.state == "finished" and t.name != plain.trial)
    both = changed(changed(results, plain.trial, confirmation=lost), second.name, confirmation=CONFIRMED)
    assert compare(both).rows[0].trial == second.name, "it was confirmed, the other was not"


def test_the_caption_names_the_methods_whose_winners_are_not_confirmed(results: SearchResults) -> None:
    for method in ("dpo", "ipo", "epsilon_dpo"):
        results = changed(results, winner(results.trials, method).name, confirmation=CONFIRMED)
    assert caption(compare(results)).endswith("confirmed on unseen prompts, but for simpo, optimistic.")


def test_json_writes_null_for_what_is_no_number(results: SearchResults) -> None:
    best = winner(results.trials, "dpo")
    far = replace(best.history[-1], kl=float("inf"), length=float("nan"))
    comparison = compare(changed(results, best.name, history=(*best.history[:-1], far)))
    found = json.loads(render([comparison], "json"), parse_constant=pytest.fail)
    assert (found["methods"][0]["kl"], found["methods"][0]["length"]) == (None, None)
    assert found["methods"][0]["win_rate"] == best.estimate.win_rate


def test_json_has_exactly_the_promised_fields(results: SearchResults) -> None:
    found = as_json(compare(results))
    assert set(found) == {"search", "methods"}
    assert [row["method"] for row in found["methods"]] == ["dpo", "ipo", "simpo", "epsilon_dpo"]
    fields = "method trial hyperparameters win_rate ci_low ci_high n kl length finished pruned failed diverged"
    assert list(found["methods"][0]) == fields.split()
    assert [found["methods"][0][state] for state in ("finished", "pruned", "failed", "diverged")] == [6, 2, 1, 1]
    assert json.loads(render([compare(results)], "json")) == found


def test_a_method_without_a_finished_trial_has_a_row_of_nothing(results: SearchResults) -> None:
    trials = tuple(trial for trial in results.trials if trial.method != "simpo" or trial.state == "failed")
    row = compare(replace(results, trials=trials)).rows[2]
    assert (row.method, row.trial, row.win_rate, row.finished, row.failed) == ("simpo", None, None, 0, 1)
    assert "simpo" in render([compare(replace(results, trials=trials))], "markdown")


def test_the_caption_names_judge_opponent_and_says_when_figures_are_optimistic(results: SearchResults) -> None:
    assert caption(compare(results)) == (
        "Win rate against start by judge rule quickstart, 95 % interval; search estimate, optimistic."
    )
    confirmed = replace(results, trials=tuple(replace(trial, confirmation=CONFIRMED) for trial in results.trials))
    assert caption(compare(confirmed)).endswith("confirmed on unseen prompts.")
    assert judge_name({"kind": "reward_model", "path": "/home/jane/rewards"}) == "reward model rewards"
    assert judge_name({"kind": "llm", "model": "org/name", "function": None}) == "llm org/name"
    assert judge_name({"kind": "bradley_terry", "model": None, "source": "../a/b.jsonl"}) == "bradley terry b.jsonl"


def test_every_format_shows_the_winner_and_its_interval(results: SearchResults) -> None:
    comparison = compare(results)
    row = comparison.rows[3]
    shown = f"{row.win_rate * 100:.1f} ± {(row.ci_high - row.ci_low) * 50:.1f}"
    assert shown in render([comparison], "markdown")
    assert shown.replace("±", r"$\pm$") in render([comparison], "latex")
    assert r"epsilon\_dpo" in render([comparison], "latex")
    console = Console(width=200, file=io.StringIO())
    console.print(to_rich(headline(comparison)))
    assert shown in console.file.getvalue()
    line = list(csv.DictReader(io.StringIO(render([comparison], "csv"))))[3]
    assert float(line["win_rate"]) == row.win_rate
    assert json.loads(line["hyperparameters"]) == row.hyperparameters


def test_csv_says_of_each_row_whether_it_was_confirmed(results: SearchResults) -> None:
    some = changed(results, winner(results.trials, "dpo").name, confirmation=CONFIRMED)
    dpo, ipo, *_ = csv.DictReader(io.StringIO(render([compare(some)], "csv")))
    assert (dpo["confirmed"], ipo["confirmed"]) == ("True", "False")
    assert json.loads(dpo["confirmation"])["seeds"] == 3
    assert ipo["confirmation"] == ""


def test_an_unknown_format_is_refused_with_the_allowed_ones(results: SearchResults) -> None:
    with pytest.raises(StudyError, match="got 'html'; allowed: table, markdown, csv, json, latex"):
        render([compare(results)], "html")


def test_searches_stand_side_by_side_even_with_different_methods(results: SearchResults) -> None:
    other = replace(results, name="smaller", trials=tuple(t for t in results.trials if t.method != "ipo"))
    other = replace(other, study={**other.study, "methods": {}, "objective": {"judge": {"kind": "llm", "model": "m"}}})
    table = side_by_side([compare(results), compare(other)])
    assert table.columns == ("method", "rhymes", "smaller")
    assert [row[0] for row in table.rows] == ["dpo", "ipo", "simpo", "epsilon_dpo"]
    assert table.rows[1][2] == "–"
    assert table.rows[0][1] == table.rows[0][2]
    assert "smaller: Win rate against start by judge llm m" in table.caption
    assert len(json.loads(render([compare(results), compare(other)], "json"))) == 2


def test_searches_that_were_measured_differently_are_told(results: SearchResults) -> None:
    def caption_beside(other: SearchResults) -> str:
        return side_by_side([compare(known), compare(other)]).caption

    known = replace(results, contents={"objective.prompts": "a", "data.source": "b"}, origins=START)
    objective = {**known.study["objective"]}
    assert "measure" not in caption_beside(replace(known, contents={**known.contents, "data.source": "c"}))
    assert "measure" not in caption_beside(replace(known, contents={})), "of an older search nothing is known"
    assert caption_beside(replace(known, contents={"objective.prompts": "c"})).endswith(
        "Not of one measure, so compare within a column: the searches differ in objective.prompts."
    )
    scored = replace(known, study={"objective": {**objective, "judge": {"kind": "reward_model", "path": "/models/rm"}}})
    older, newer = replace(scored, contents={}), replace(scored, contents={"objective.judge.path": "r"})
    assert "measure" not in side_by_side([compare(newer), compare(older)]).caption
    start = {"base-model": {**START["base-model"], "start": "tuned"}}
    assert "differ in objective.opponent." in caption_beside(replace(known, origins=start))
    judge = {"kind": "llm", "model": "m", "template": "hh", "base_url": "http://a"}
    asked = [replace(known, study={"objective": {**objective, "judge": {**judge, **also}}}) for also in ALSO]
    same, other, *_ = (side_by_side([compare(asked[0]), compare(search)]).caption for search in asked[1:])
    assert "measure" not in same, "where the server is makes no other verdict"
    assert "differ in objective.judge." in other


def test_diff_shows_what_differs_and_what_it_did_at_the_last_shared_point(results: SearchResults) -> None:
    table = diff(results, "dpo-0000", "dpo-0003")
    rows = {row[0]: row[1:] for row in table.rows}
    first, pruned = (next(t for t in results.trials if t.name == n) for n in ("dpo-0000", "dpo-0003"))
    assert "method" not in rows
    assert rows["beta"][2] == f"× {pruned.hyperparameters['beta'] / first.hyperparameters['beta']:.3g}"
    assert rows["state"][:2] == ("finished", "pruned")
    assert rows["seed"][2] == "", "a seed is a name, no quantity"
    change = (pruned.history[0].win_rate - first.history[0].win_rate) * 100
    assert rows["win rate %"] == (
        f"{first.history[0].win_rate * 100:.1f}",
        f"{pruned.history[0].win_rate * 100:.1f}",
        f"{change:+.1f}".replace("-", "−"),
    )
    assert "33% of the schedule" in table.caption


def test_diff_says_on_how_many_prompts_its_figures_are(results: SearchResults) -> None:
    assert diff(results, "dpo-0000", "dpo-0001").caption.startswith(
        "Figures at 100% of the schedule; the same prompts were judged for both."
    )
    last = next(trial for trial in results.trials if trial.name == "dpo-0001").history[-1]
    raced = changed(results, "dpo-0001", history=(replace(last, n=24),))
    assert "; 120 and 24 of the same prompts were judged." in diff(raced, "dpo-0000", "dpo-0001").caption
    begun = changed(results, "dpo-0001", history=())
    assert diff(begun, "dpo-0000", "dpo-0001").caption == "No evaluation in common. Equal settings are left out."


def test_diff_as_json_has_pairs(results: SearchResults) -> None:
    first, second = (next(t for t in results.trials if t.name == name) for name in ("dpo-0000", "dpo-0009"))
    found = json.loads(dumps(diff_as_json(results, "dpo-0000", "dpo-0009")))
    assert found["trials"] == ["dpo-0000", "dpo-0009"]
    assert found["settings"]["beta"] == [first.hyperparameters["beta"], second.hyperparameters["beta"]]
    assert found["reason"] == [None, second.reason]
    assert [point["win_rate"] for point in found["at"]] == [first.history[0].win_rate, second.history[0].win_rate]


def test_diff_of_an_unknown_trial_names_the_known_ones(results: SearchResults) -> None:
    with pytest.raises(StorageError, match=r"got 'dpo-9'; trials: dpo-0000, dpo-0001"):
        diff(results, "dpo-0000", "dpo-9")


def test_brackets_of_a_model_or_an_error_are_text_and_no_markup(
    results: SearchResults, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = "[/INST] is [bold]not[/bold] markup"
    answer = Judged(1.0, "Say [x]", f" {hostile}", "[red]", 1.0, "rule", failure=None)
    failed = changed(results, "dpo-0009", reason=hostile, hyperparameters={"beta": "[/x]"})
    draw(showing.to_rich("dpo-0000", [answer]))
    draw(status.to_rich(failed, None, {}))
    Terminal(out).say(hostile)
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert hostile in shown
    assert shown.count("[/INST]") == 3
    assert "beta=[/x]" in shown
    assert "[red]" in shown
