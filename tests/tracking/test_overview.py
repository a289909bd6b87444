"""The search-level run and the W&B Report: what a person sees without clicking anything together."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic import write_search
from wandb_files import offline_runs
from wandb_server import WandbServer

from raypo.errors import StorageError
from raypo.search.results import SearchResults
from raypo.tracking.compare import compare, winner
from raypo.tracking.wandb import replay
from raypo.tracking.wandb_report import panels, write_wandb_report


def rows_of(content: bytes | str) -> list[dict[str, Any]]:
    table = json.loads(content)
    return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]


def test_the_search_level_run_holds_the_comparison(tmp_path: Path) -> None:
    results = write_search(tmp_path, trials=10)
    replay(results, "offline")
    (run,) = [run for name, run in offline_runs(results.folder).items() if name.endswith("-search")]
    assert (run.group, run.job_type, run.exit_code) == ("rhymes", "search", 0)
    assert "judge rule quickstart" in run.notes
    best = winner(results.trials, "epsilon_dpo")
    assert run.summary["best/epsilon_dpo/win_rate"] == best.estimate.win_rate
    assert run.summary["best/epsilon_dpo/ci_low"] == best.estimate.ci_low
    (folder,) = (results.folder / "wandb").glob("offline-run-*-search")
    tables = {path.name.split("_")[0]: rows_of(path.read_text()) for path in (folder / "files/media/table").iterdir()}
    assert set(tables) == {"best", "trials", "answers"}
    for row, shown in zip(compare(results).rows, tables["best"], strict=True):
        assert (shown["method"], shown["trial"], shown["win_rate"]) == (row.method, row.trial, row.win_rate)
        assert (shown["finished"], shown["failed"]) == (6, 1)
        assert shown["run"].endswith(f"-{row.trial}")
    assert len(tables["trials"]) == 40
    assert {row["method"] for row in tables["answers"]} == set(results.methods)
    drawn = [
        path.relative_to(folder / "files/media/plotly") for path in (folder / "files/media/plotly").rglob("*.json")
    ]
    names = {str(path).rsplit("_", 2)[0] for path in drawn}
    assert {"winners", "front", "over_optimisation", "budget", "importances", "curves/loss"} <= names
    assert {"parallel/dpo", "slices/dpo/beta", "slices/dpo/lr"} <= names


def test_nothing_that_is_sent_tells_the_folder_of_a_person(tmp_path: Path) -> None:
    results = write_search(tmp_path, trials=10)
    reason = "no space left on device: '/home/jane/my searches/a.pt'"
    trials = tuple(replace(t, reason=reason) if t.state == "failed" else t for t in results.trials)
    objective = {**results.study["objective"], "opponent": "/home/jane/answers.jsonl"}
    objective["judge"] = {"kind": "llm", "model": "/home/jane/judge"}
    replay(replace(results, trials=trials, study={**results.study, "objective": objective}), "offline")
    runs = offline_runs(results.folder)
    (overview,) = [run for name, run in runs.items() if name.endswith("-search")]
    (failed,) = [run for name, run in runs.items() if name.endswith("-dpo-0009")]
    assert failed.summary["reason"] == "no space left on device: '…/a.pt'"
    assert failed.notes.endswith("failed: no space left on device: '…/a.pt'")
    assert (overview.summary["judge"], overview.summary["opponent"]) == ("llm …/judge", "…/answers.jsonl")
    sent = [path for path in (results.folder / "wandb").rglob("*") if path.is_file() and "logs" not in path.parts]
    assert len(sent) > 41
    assert [path.name for path in sent if b"jane" in path.read_bytes()] == []


def test_a_wandb_report_and_a_saved_view_show_the_search(
    server: WandbServer,
    results: SearchResults,
) -> None:
    pytest.importorskip("wandb_workspaces", reason="the extra wandb-report is not installed")
    report, view = write_wandb_report(results, "raypo", "someone")
    assert "/reports/rhymes--V1" in report
    assert view
    saved, workspace = server.views
    text = json.dumps(saved["spec"])
    row = compare(results).rows[0]
    assert row.trial in text
    assert "rhymes" in json.dumps(workspace["spec"])
    for spec in (text, json.dumps(workspace["spec"])):
        assert "Parallel Coordinates Plot" in spec
        assert "eval/win_rate" in spec


def test_a_wandb_report_draws_the_goals_of_a_search_against_each_other(results: SearchResults) -> None:
    reports = pytest.importorskip("wandb_workspaces.reports.v2", reason="the extra wandb-report is not installed")
    objective = {**results.study["objective"], "pareto": ["win_rate", "-kl", "reward_accuracy"]}
    searched = replace(results, study={**results.study, "objective": objective})
    drawn = [panel for panel in panels(reports, searched) if isinstance(panel, reports.ScatterPlot)]
    assert [(panel.title, panel.x.name, panel.y.name) for panel in drawn] == [
        ("Win rate against KL", "kl", "win_rate"),
        ("win_rate against reward_accuracy", "heldout/dpo/accuracies", "win_rate"),
    ]


def test_without_the_extra_the_error_says_what_to_install(
    results: SearchResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wandb_workspaces", None)
    with pytest.raises(StorageError, match=r"pip install 'raypo\[wandb-report\]'"):
        write_wandb_report(results, "raypo")
