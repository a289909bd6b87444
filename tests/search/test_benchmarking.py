"""Benchmarks of the finalists: who is one, where the figures go, and the harness itself on a tiny task."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from played import STUDY, Played
from small_bench import Pulse, job_of, open_bench, small_study

from raypo.evaluation.benchmarks import Score, run_benchmarks, unknown_tasks
from raypo.search.benchmarking import benchmark, finalists
from raypo.search.folders import trial_folder
from raypo.search.jobs import Job, Outcome
from raypo.search.measuring import unmeasurable
from raypo.search.reading import read_results
from raypo.search.searches import create
from raypo.study import build
from raypo.tracking.benchmarks import as_json, benchmark_table, benchmarked
from raypo.tracking.compare import winner as compared_winner

harness = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None,
    reason="lm-evaluation-harness is not installed; pip install 'raypo[lm-eval]'",
)
TASK = """
task: tiny_lists
dataset_path: json
dataset_kwargs:
  data_files:
    test: {rows}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
"""
SCORE = {"task": "t", "metric": "acc", "value": 0.5, "standard_error": 0.1, "n": 6}


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """A task of six questions with two choices each, as a YAML file."""
    rows = [{"question": f"list {i} animals", "choices": [" cat dog", " red blue"], "answer": i % 2} for i in range(6)]
    folder = tmp_path / "task"
    folder.mkdir()
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "tiny.yaml").write_text(TASK.format(rows=folder / "rows.jsonl"))
    return folder / "tiny.yaml"


def test_each_methods_winner_is_benchmarked_once_and_the_figures_stand_in_the_ledger(tmp_path: Path) -> None:
    study = build({**STUDY, "storage": str(tmp_path), "benchmarks": {"tasks": ["t"]}}, "study")
    search = create(study)
    played = Played(search).run()
    first = finalists(study, search.ledger)
    best = {
        label: max((r for r in played.rows.values() if r.label == label), key=lambda r: next(iter(r.params.values())))
        for label in study.methods
    }
    assert [row.name for row in first] == [best["dpo"].name, best["ipo"].name]
    said: list[str] = []

    def together(jobs: Sequence[Job]) -> Iterator[Outcome]:
        assert {job.kind for job in jobs} == {"benchmark"}
        yield Outcome(jobs[1].trial, "finished", 1.0, evaluation={"scores": [SCORE]})
        yield Outcome(jobs[0].trial, "failed", 0.0, reason="no such task")

    benchmark(search.ledger, first, played.conductor.job, together, said.append)
    assert said[1] == f"benchmarks of {first[0].name}: no such task; raypo resume tries again"
    assert [row.name for row in finalists(study, search.ledger)] == [first[0].name]
    results = read_results(search)
    assert [trial.name for trial in benchmarked(results)] == [first[1].name]
    assert as_json([results])["benchmarks"] == [{"search": "played", "method": "ipo", "trial": first[1].name, **SCORE}]
    assert benchmark_table([results]).rows == (("t", "acc", "0.5000 ± 0.1000 (6)"),)


def test_a_confirmed_configuration_is_the_finalist_rather_than_the_optimistic_one(tmp_path: Path) -> None:
    study = build({**STUDY, "storage": str(tmp_path), "benchmarks": {"tasks": ["t"]}}, "study")
    search = create(study)
    rows = [row for row in Played(search).run().rows.values() if row.label == "dpo"]
    worst = min(rows, key=lambda row: row.params["beta"])
    search.ledger.confirm(worst, {"win_rate": 0.4, "seeds": 2})
    assert finalists(study, search.ledger)[0].name == worst.name


def test_the_finalist_is_the_trial_that_tables_and_export_name(tmp_path: Path) -> None:
    study = build({**STUDY, "storage": str(tmp_path), "benchmarks": {"tasks": ["t"]}}, "study")
    search = create(study)
    rows = [row for row in Played(search).run().rows.values() if row.label == "dpo"]
    worst, best = sorted(rows, key=lambda row: row.params["beta"])
    search.ledger.confirm(worst, {"win_rate": 0.0, "seeds": 0, "failed": {f"{worst.name}.s0": "out of memory"}})
    exported = compared_winner(read_results(search).trials, "dpo")
    assert exported is not None
    assert [exported.name, finalists(study, search.ledger)[0].name] == [best.name, best.name]


def test_without_the_harness_or_without_trust_the_study_is_refused(task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def problems(tasks: list[str], allow_code: bool) -> list[str]:
        content: dict[str, Any] = {**STUDY, "benchmarks": {"tasks": tasks}}
        return list(unmeasurable(build(content, "study", allow_code=allow_code)))

    monkeypatch.setattr("raypo.search.measuring.installed", lambda _: False)
    assert "pip install 'raypo[lm-eval]'" in problems(["arc_easy"], False)[0]
    assert "trust it with --allow-code" in problems([str(task)], False)[0]


@harness
def test_a_task_that_the_harness_does_not_have_is_named(task: Path) -> None:
    assert not list(unknown_tasks([str(task)]))
    (told,) = unknown_tasks(["arc_chalenge"])
    assert "did you mean 'arc_challenge'" in told


def test_a_slot_fetches_a_model_for_its_benchmarks_and_lets_it_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[Path] = []

    def harness(model: Path, *_: Any, **__: Any) -> list[Score]:
        assert (model / "model.safetensors").exists()
        measured.append(model)
        return [Score(**SCORE)]

    monkeypatch.setenv("RAYPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("raypo.search.bench.run_benchmarks", harness)
    location = f"file://{tmp_path}/bucket"
    study = small_study(location, benchmarks={"tasks": ["t"]})  # type: ignore[arg-type]
    bench = open_bench(study, f"{location}/small")  # type: ignore[arg-type]
    bench.run(job_of(study, "dpo-0000"), Pulse())
    outcome = bench.run(job_of(study, "dpo-0000").benchmarked(), Pulse())
    bench.close()
    assert outcome.evaluation["scores"] == [SCORE]
    assert [model.exists() for model in measured] == [False]


@harness
def test_a_trained_model_does_a_tiny_task(tmp_path: Path, task: Path) -> None:
    study = small_study(
        tmp_path,
        allow_code=True,
        objective={"prompts": {"split": "eval", "count": 8}},
        benchmarks={"tasks": [str(task)]},
    )
    bench = open_bench(study, tmp_path / "small")
    try:
        bench.run(job_of(study, "dpo-0000"), Pulse())
        outcome = bench.run(job_of(study, "dpo-0000").benchmarked(), Pulse())
    finally:
        bench.close()
    (score,) = outcome.evaluation["scores"]
    assert (score["task"], score["metric"], score["n"]) == ("tiny_lists", "acc", 6)
    assert score["value"] == 0.5, "one choice is always likelier, and is right every other time"
    folder = trial_folder(tmp_path / "small", "dpo-0000")
    assert json.loads((folder / "benchmarks.json").read_text()) == outcome.evaluation["scores"]
    (limited,) = run_benchmarks(folder / "model", [str(task)], limit=2)
    assert limited.n == 2
