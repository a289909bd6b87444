import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from plotly.offline import get_plotlyjs
from synthetic import write_search

from raypo.search.results import SearchResults
from raypo.tracking import charts
from raypo.tracking.compare import compare, winner
from raypo.tracking.importance import importances, is_log
from raypo.tracking.parallel import parallel
from raypo.tracking.report import page, write_report
from raypo.tracking.samples import chosen_prompts, winners_answers

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=10000",
    "--enable-logging=stderr",
    "--dump-dom",
]
DARK = "--blink-settings=preferredColorScheme=0"


@pytest.fixture(scope="session")
def report(results: SearchResults, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(results, tmp_path_factory.mktemp("report") / "report.html")


def own_part(html: str) -> str:
    """The page without the embedded library."""
    return html.replace(get_plotlyjs(), "")


def browse(path: Path, profile: Path, *flags: str) -> tuple[str, list[str]]:
    """Open a page in headless Chromium; returns the document as drawn, and the errors on the console."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    arguments = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *flags, path.as_uri()]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=90, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_the_page_opens_in_a_browser_with_every_chart_drawn(report: Path, tmp_path: Path) -> None:
    document, errors = browse(report, tmp_path)
    assert errors == []
    drawn = own_part(document)
    boxes = re.findall(r'<div class="chart[^"]*"[^>]*aria-label="([^"]*)"', drawn)
    assert len(boxes) == 1 + 4 * 3 + 1 + 2 + 4 + 1
    assert drawn.count('class="plot-container') == len(boxes)
    assert drawn.count('class="point"') + drawn.count('class="points"') >= len(boxes)
    assert "rgb(0, 114, 178)" in drawn


def test_in_dark_mode_the_charts_change_their_colours(report: Path, tmp_path: Path) -> None:
    document, errors = browse(report, tmp_path, DARK)
    assert errors == []
    drawn = own_part(document)
    assert "rgb(88, 180, 240)" in drawn
    assert "rgb(0, 114, 178)" not in drawn


def test_a_search_without_any_result_still_makes_a_page_that_opens(results: SearchResults, tmp_path: Path) -> None:
    failed = tuple(replace(t, history=(), fraction=0.0) for t in results.trials if t.state == "failed")
    for name, trials in {"empty": (), "failed": failed}.items():
        path = write_report(replace(results, trials=trials), tmp_path / f"{name}.html")
        assert "No trial has been fully trained yet." in path.read_text()
    document, errors = browse(tmp_path / "failed.html", tmp_path / "profile")
    assert errors == []
    assert "worker 1 ran out of memory at step 12: &lt;tensor&gt; &amp; friends" in own_part(document)


def test_the_page_needs_no_network(report: Path) -> None:
    html = own_part(report.read_text())
    assert get_plotlyjs() in report.read_text()
    assert re.findall(r'(?:src|href)="(?!#|data:,")[^"]*"', html) == []
    assert "@import" not in html
    assert "url(" not in html


def test_the_page_shows_the_comparison_the_failures_and_the_way_to_run_again(
    report: Path, results: SearchResults
) -> None:
    html = own_part(report.read_text())
    for row in compare(results).rows:
        assert f"{row.win_rate * 100:.1f} ± {(row.ci_high - row.ci_low) * 50:.1f}" in html
    assert html.count("KL 143.0 nats at step 20, limit 100") == 4
    assert "search estimate, optimistic" in html
    assert "raypo export rhymes --method dpo --to dpo" in html
    for identity in re.findall(r'href="#(\w+)"', html):
        assert f'<section id="{identity}">' in html


def test_what_a_model_wrote_cannot_break_the_page(tmp_path: Path) -> None:
    results = write_search(tmp_path, trials=2)
    hostile = "</script><img src=x onerror=alert(1)>{{plotly}} & \\u2028"
    best = winner(results.trials, "dpo")
    path = best.folder / "completions.parquet"
    rows = [{**row, "answer": hostile} for row in pq.read_table(path).to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows), path)
    named = replace(best, hyperparameters={**best.hyperparameters, "</script><b>": "</script>"}, reason=hostile)
    results = replace(results, trials=tuple(named if trial == best else trial for trial in results.trials))
    html = own_part(page(results))
    assert "<img" not in html
    assert "&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;{{plotly}} &amp;" in html
    assert html.count("<script") == html.count("</script>")


def test_importance_finds_the_hyperparameter_that_mattered(results: SearchResults) -> None:
    rng = np.random.default_rng(0)
    template = next(trial for trial in results.trials if trial.method == "dpo" and trial.state == "finished")
    trials = []
    for number in range(40):
        beta, lr = 10 ** rng.uniform(-2, 0), 10 ** rng.uniform(-5, -3)
        rate = 0.7 - 0.1 * (np.log10(beta) + 1) ** 2 + 0.002 * rng.normal()
        history = (*template.history[:-1], replace(template.history[-1], win_rate=float(rate)))
        trials.append(
            replace(template, number=number, hyperparameters={"beta": beta, "lr": lr, "loss": "dpo"}, history=history)
        )
    shares = importances(replace(results, trials=tuple(trials)), "dpo")
    assert list(shares) == ["beta", "lr"]
    assert shares["beta"] > 0.9
    assert importances(replace(results, trials=tuple(trials[:4])), "dpo") == {}
    open_ = replace(template, name="dpo-0040", state="waiting", history=(), hyperparameters={"beta": 50.0, "lr": 0.0})
    assert importances(replace(results, trials=(*trials, open_)), "dpo") == shares, "it has shown nothing yet"
    for_rate = tuple(
        replace(
            t, history=(replace(t.history[-1], metrics={"objective": -abs(np.log10(t.hyperparameters["lr"]) + 4)}),)
        )
        for t in trials
    )
    assert importances(replace(results, trials=for_rate), "dpo")["lr"] > 0.9, "the objective counts, not the win rate"


def test_axes_are_logarithmic_where_values_spread_over_a_decade() -> None:
    assert is_log([0.01, 0.1])
    assert not is_log([0.05, 0.1])
    assert not is_log([0.0, 1.0])
    assert not is_log(["a", "b"])
    assert not is_log([])


def test_the_front_holds_no_trial_that_another_beats(results: SearchResults) -> None:
    edge = charts.front(results).data[0]
    points = list(zip(edge.x, edge.y, strict=True))
    assert points == sorted(points)
    for kl, rate in points:
        assert not any(
            t.estimate.kl <= kl and 100 * t.estimate.win_rate > rate for t in results.trials if t.state == "finished"
        )


def test_budget_curves_never_fall_and_end_at_the_winner(results: SearchResults) -> None:
    for trace, method in zip(charts.budget(results).data, results.methods, strict=True):
        assert list(trace.y) == sorted(trace.y)
        assert trace.y[-1] == pytest.approx(100 * winner(results.trials, method).estimate.win_rate)


def test_parallel_coordinates_place_every_value_on_its_axis(results: SearchResults) -> None:
    drawn = parallel(results, "dpo")
    assert list(drawn.layout.xaxis.ticktext) == ["beta", "lr", "win rate, %"]
    assert all(0 <= height <= 1 for trace in drawn.data for height in trace.y)
    widest = max(drawn.data, key=lambda trace: trace.line.width)
    assert winner(results.trials, "dpo").name in widest.hovertext
    assert widest.y[-1] == 1.0


def test_a_hyperparameter_that_only_some_trials_have_hides_no_trial(results: SearchResults) -> None:
    mine = [t for t in results.trials if t.method == "dpo"]
    some = [replace(t, hyperparameters={**t.hyperparameters, "epsilon": 0.1 * i}) for i, t in enumerate(mine) if i % 2]
    mixed = replace(results, trials=tuple(t for t in mine if t.name not in {s.name for s in some}) + tuple(some))
    drawn = parallel(mixed, "dpo")
    assert len(drawn.data) == len(parallel(results, "dpo").data)
    column = list(drawn.layout.xaxis.ticktext).index("epsilon")
    heights = [trace.y[column] for trace in drawn.data]
    assert {height < 0 for height in heights} == {True, False}
    assert min(heights) > drawn.layout.yaxis.range[0]
    assert [note.text for note in drawn.layout.annotations].count("not set") == 1
    assert set(importances(mixed, "dpo")) == {"beta", "lr"}


def test_sample_prompts_range_from_the_best_answered_to_the_worst(results: SearchResults) -> None:
    answers = winners_answers(results)
    prompts = chosen_prompts(answers, 5)
    totals = [sum(own[prompt]["score"] for own in answers.values()) for prompt in prompts]
    assert len(set(prompts)) == 5
    assert totals == sorted(totals, reverse=True)
    assert totals[0] > totals[-1]


def test_what_a_search_has_not_is_neither_linked_nor_drawn(results: SearchResults) -> None:
    first = {method: next(t for t in results.trials if t.method == method) for method in results.methods}
    also = [t for t in results.trials if t.state == "pruned"]
    built = {**results.study, "model": {"path": None, "build": {"text": "tales.txt"}}}
    html = own_part(page(replace(results, study=built, trials=(*first.values(), *also))))
    assert "hyperparameters" not in re.findall(r'href="#(\w+)"', html), "one trained trial says nothing of an axis"
    assert "trouble" in re.findall(r'href="#(\w+)"', html)
    assert "trouble" not in re.findall(r'href="#(\w+)"', own_part(page(replace(results, trials=(*first.values(),)))))
    assert "<dd>made from text</dd>" in html
    assert all(f'<section id="{identity}">' in html for identity in re.findall(r'href="#(\w+)"', html))
