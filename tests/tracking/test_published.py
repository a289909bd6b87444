"""Ours beside published figures: the right trial at the right point, and a file that says what it means."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from raypo import yaml
from raypo.errors import StudyError
from raypo.search.results import SearchResults
from raypo.tracking.compare import winner
from raypo.tracking.published import beside, find, read_published, render

STUDIES = Path(__file__).parents[2] / "search_spaces" / "studies"
GROUP = {
    "paper": "Somebody 2025", "table": "Table 1", "study": "mine", "metric": "win rate %", "ours": "win_rate",
    "values": {"dpo": 61.5, "ipo": 58.0},
}  # fmt: skip


def written(folder: Path, *groups: dict[str, object]) -> Path:
    path = folder / "published.yaml"
    path.write_text(yaml.dump(list(groups)))
    return path


@pytest.fixture
def mine(results: SearchResults) -> SearchResults:
    return replace(results, study={**results.study, "name": "mine"})


def test_ours_is_the_best_fully_trained_trial(mine: SearchResults, tmp_path: Path) -> None:
    rows = beside([mine], read_published(written(tmp_path, GROUP))).rows
    by_method = {row[2]: row for row in rows}
    best = winner(mine.trials, "dpo")
    assert best is not None
    assert best.estimate is not None
    assert by_method["dpo"][5:7] == ("61.5", f"{100 * best.estimate.win_rate:.1f}")
    assert by_method["dpo"][8:] == (str(best.estimate.n), best.name, "search")
    assert by_method["simpo"][5] == "–", "a method without a published figure still has its row"
    assert list(by_method) == ["dpo", "ipo", "simpo", "epsilon_dpo"]


def test_a_figure_at_a_point_is_compared_there(mine: SearchResults, tmp_path: Path) -> None:
    there = next(
        t for t in mine.trials if t.method == "dpo" and t.state == "finished" and t != winner(mine.trials, "dpo")
    )
    point = {"beta": there.hyperparameters["beta"]}
    at = {**GROUP, "at": point, "values": {"dpo": 50.0}}
    nowhere = {**GROUP, "at": {"beta": 123}, "values": {"dpo": 50.0}}
    fixed = {**GROUP, "at": {"tau": 0.1}, "values": {"dpo": 50.0}}
    study = {**mine.study, "methods": {**mine.study["methods"], "dpo": {"tau": 0.1}}}
    mine = replace(mine, study=study)
    found = [
        row[9] for row in beside([mine], read_published(written(tmp_path, at, nowhere, fixed))).rows if row[2] == "dpo"
    ]
    best = winner(mine.trials, "dpo")
    assert best is not None
    assert found == [there.name, "–", best.name], "a point, one that was not tried, one that the study fixes"


def test_a_checkpoint_on_the_way_is_compared_with_ours_on_the_way(mine: SearchResults, tmp_path: Path) -> None:
    group = {**GROUP, "along": "schedule", "values": {"dpo": {1 / 3: 40.0, 1.0: 60.0}}}
    first, last = (row for row in beside([mine], read_published(written(tmp_path, group))).rows if row[2] == "dpo")
    early = max(t.history[0].win_rate for t in mine.trials if t.method == "dpo" and t.state == "finished")
    assert first[6] == f"{100 * early:.1f}"
    assert first[6] != last[6]


def test_what_we_do_not_measure_stands_alone(mine: SearchResults, tmp_path: Path) -> None:
    row = beside([mine], read_published(written(tmp_path, {**GROUP, "ours": None}))).rows[0]
    assert row[5:] == ("61.5", "–", "–", "–", "–", "–")


def test_ours_is_the_confirmed_figure_where_the_best_there_was_confirmed(mine: SearchResults, tmp_path: Path) -> None:
    best = {method: winner(mine.trials, method) for method in ("dpo", "ipo")}
    unseen = {"win_rate": 0.55, "ci_low": 0.5, "ci_high": 0.6, "n": 300, "seeds": 2, "kl": 3.0, "length": 20.0}
    trials = tuple(replace(t, confirmation=unseen) if t == best["dpo"] else t for t in mine.trials)
    half = {**GROUP, "along": "schedule", "values": {"dpo": {2 / 3: 40.0}}}
    table = beside([replace(mine, trials=trials)], read_published(written(tmp_path, GROUP, half)))
    dpo, ipo, part, *_ = table.rows
    assert dpo[6:] == ("55.0", "5.0", "300", best["dpo"].name, "confirmed")
    assert ipo[6:] == (f"{100 * best['ipo'].estimate.win_rate:.1f}", ipo[7], "120", best["ipo"].name, "search")
    assert (part[2], part[-1]) == ("dpo", "search"), "no confirmation is measured on the way"
    assert "search: on those that chose it, optimistic" in table.caption


def test_formats_and_a_study_without_figures(mine: SearchResults, tmp_path: Path) -> None:
    table = beside([mine], read_published(written(tmp_path, GROUP)))
    assert json.loads(render(table, "json"))[0]["published"] == "61.5"
    assert next(csv.DictReader(io.StringIO(render(table, "csv"))))["method"] == "dpo"
    assert render(table, "markdown").startswith("| search | table | method |")
    with pytest.raises(StudyError, match="no such format"):
        render(table, "xml")
    other = beside([mine], read_published(written(tmp_path, {**GROUP, "study": "another"})))
    assert "No figures are recorded for mine" in other.caption


def test_a_wrong_file_is_refused(tmp_path: Path) -> None:
    lacking = {name: value for name, value in GROUP.items() if name != "metric"}
    with pytest.raises(StudyError, match=r"group 1: lacks \['metric'\]"):
        read_published(written(tmp_path, lacking))
    with pytest.raises(StudyError, match="ours: got 'wins'"):
        read_published(written(tmp_path, {**GROUP, "ours": "wins"}))
    with pytest.raises(StudyError, match="no such file; give papers, or a file of published figures"):
        read_published(find(str(tmp_path / "none.yaml")))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"values": 5}, "group 1: values: got 5"),
        ({"values": {"dpo": "n/a"}}, "values.dpo: got 'n/a'; a published figure is a number"),
        ({"values": {"dpo": {0.5: 1.0}}}, "values.dpo: got {0.5: 1.0}; a published figure is a number"),
        ({"at": 5}, "group 1: at: got 5"),
        ({"ours": ["x"]}, r"ours: got \['x'\]"),
        ({"along": "beta"}, "values.dpo, along beta: got 61.5"),
    ],
)
def test_a_value_of_another_kind_is_refused(tmp_path: Path, wrong: dict[str, object], said: str) -> None:
    with pytest.raises(StudyError, match=said):
        read_published(written(tmp_path, {**GROUP, **wrong}))


def test_the_papers_figures_belong_to_studies_and_their_methods() -> None:
    from raypo.study import load

    files = [path for path in sorted(STUDIES.glob("*.yaml")) if path.stem not in ("miniature", "published")]
    names = {path.stem: set(load(path).methods) for path in files}
    for overlay in (STUDIES / "settings").glob("*.yaml"):
        base = next(name for name in names if name.split("_")[0] == overlay.stem.split("_")[0])
        names.setdefault(overlay.stem, names[base])
    published = read_published(find("papers"))
    assert len(published) > 150
    for figure in published:
        assert figure.method in names[figure.study], figure


@pytest.mark.parametrize(
    ("study", "method", "metric", "value"),
    [
        ("preference_informed_tldr", "dpo", "win rate % against chosen", 53.8),
        ("epsilon_dpo", "epsilon_dpo", "AlpacaEval 2 LC %", 46.4),
        ("simpo_baselines", "cpo", "AlpacaEval 2 LC %", 28.9),
        ("simpo_mistral_base", "simpo", "Arena-Hard %", 16.6),
    ],
)
def test_figures_are_the_papers(study: str, method: str, metric: str, value: float) -> None:
    found = [
        f.value for f in read_published(find("papers")) if (f.study, f.method, f.metric) == (study, method, metric)
    ]
    assert found == [value]


def test_no_figure_of_cdpo_without_flips_is_shown_for_the_papers_print_dpos_there() -> None:
    paradox = [f for f in read_published(find("papers")) if f.study.startswith("paradox")]
    without = {f.method for f in paradox if f.at.get("data.flip_labels") == 0}
    assert without == {"dpo", "ipo"}
    assert sorted({f.at["data.flip_labels"] for f in paradox if f.method == "cdpo"}) == [0.05, 0.25, 0.5, 0.75]
