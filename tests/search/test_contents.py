"""A search whose data, model, prompts or judge change under it does not go on as if they had not."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from small_bench import Pulse, job_of, open_bench, small_study

from raypo.errors import Hindrance
from raypo.quickstart import model as tiny
from raypo.search import single
from raypo.search.bench import TrialBench
from raypo.search.contents import forget
from raypo.search.jobs import Job
from raypo.study import Study

PREPARE = Job("prepare", "prepare", {}, 0, 1.0, kind="prepare")
JUDGE = "def quality(prompt: str, answer: str) -> float:\n    return len(answer)\n"


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Everything that this study names is a file of the user's own."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "wishes", raising=False)
    tiny.build(tmp_path / "model")
    write_pairs(tmp_path / "data.jsonl", "data")
    write_pairs(tmp_path / "prompts.jsonl", "prompts")
    (tmp_path / "wishes.py").write_text(JUDGE)
    return small_study(
        tmp_path / "searches",
        allow_code=True,
        model={"path": str(tmp_path / "model")},
        data={"source": str(tmp_path / "data.jsonl"), "count": None},
        objective={
            "judge": {"kind": "rule", "function": "wishes:quality", "source": "read by no rule"},
            "prompts": {"source": str(tmp_path / "prompts.jsonl"), "count": 8},
        },
    )


def write_pairs(path: Path, word: str) -> None:
    rows = [{"prompt": f"{word} {i}", "chosen": f"good {i}", "rejected": "bad"} for i in range(16)]
    path.write_text("\n".join(map(json.dumps, rows)))


def change_model(folder: Path) -> None:
    config = json.loads((folder / "model" / "config.json").read_text())
    (folder / "model" / "config.json").write_text(json.dumps({**config, "note": "another one"}))


CHANGES = {
    "model": change_model,
    "data.source": lambda folder: write_pairs(folder / "data.jsonl", "other data"),
    "objective.prompts": lambda folder: write_pairs(folder / "prompts.jsonl", "other prompts"),
    "objective.judge.function": lambda folder: (folder / "wishes.py").write_text(JUDGE.replace("len(", "-len(")),
}


@pytest.mark.parametrize("key", CHANGES)
def test_what_changes_under_a_search_hinders_it_and_is_named(key: str, tmp_path: Path, study: Study) -> None:
    folder = tmp_path / "searches" / "small"
    open_bench(study, folder).close()
    CHANGES[key](tmp_path)
    bench = bench_of(study, folder)
    for job in (PREPARE, job_of(study, "dpo-0000")):
        with pytest.raises(Hindrance) as told:
            bench.run(job, Pulse())
        first, *others = str(told.value).splitlines()
        assert first.startswith(f"{key}: what it names has changed since")
        assert len(others) == 1, "what has not changed is not named"
    assert not (folder / "trials").exists()


def test_it_goes_on_once_what_was_there_is_put_back(tmp_path: Path, study: Study) -> None:
    folder, data = tmp_path / "searches" / "small", tmp_path / "data.jsonl"
    open_bench(study, folder).close()
    before = data.read_text()
    write_pairs(data, "other data")
    with pytest.raises(Hindrance):
        bench_of(study, folder).run(PREPARE, Pulse())
    data.write_text(before)
    bench = bench_of(study, folder)
    assert bench.run(job_of(study, "dpo-0000"), Pulse()).state == "finished"
    bench.close()


def test_a_search_without_trials_begins_with_what_is_there_now(tmp_path: Path, study: Study) -> None:
    bench = open_bench(study, tmp_path / "searches" / "small")
    bench.close()
    write_pairs(tmp_path / "data.jsonl", "other data")
    forget(bench.copy)
    open_bench(study, tmp_path / "searches" / "small").close()


def test_rows_that_say_the_same_elsewhere_or_otherwise_written_are_the_same(tmp_path: Path, study: Study) -> None:
    folder, data = tmp_path / "searches" / "small", tmp_path / "data.jsonl"
    open_bench(study, folder).close()
    rows: list[dict[str, Any]] = [json.loads(line) for line in data.read_text().splitlines()]
    data.write_text("\n".join(json.dumps(dict(reversed(row.items()))) for row in rows) + "\n\n")
    open_bench(study, folder).close()


def test_runs_without_a_search_are_each_of_their_own(tmp_path: Path, study: Study) -> None:
    alone = small_study(tmp_path / "alone", allow_code=True, **{**sections(study), "methods": {"dpo": {"beta": 0.1}}})
    _, first = single.train(alone, "dpo", "runs", lambda _: None)
    write_pairs(tmp_path / "data.jsonl", "other data")
    _, second = single.train(alone, "dpo", "runs", lambda _: None)
    assert first != second


def bench_of(study: Study, folder: Path) -> TrialBench:
    return TrialBench(study.written(), study.name, str(folder), study.allow_code)


def sections(study: Study) -> dict[str, Any]:
    written = study.written()
    return {name: written[name] for name in ("model", "data", "objective")}
