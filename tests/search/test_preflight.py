"""What would fail after hours of training, or at the judge's first question, is told before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from raypo import yaml
from raypo.cli import main  # noqa: F401  the commands register themselves
from raypo.cli.common import app
from raypo.errors import StudyError
from raypo.search import planning
from raypo.search.preflight import check, check_here
from raypo.study import Study, build
from raypo.study.loading import override

LLM = "objective.judge={kind: llm, model: m, base_url: 'http://localhost:1/v1'}"
CONTENT: dict[str, Any] = {
    "name": "looked_at",
    "model": {"path": "quickstart"},
    "data": {"source": "quickstart", "count": 100, "max_length": 64},
    "methods": {"dpo": {"beta": {"uniform": [0.1, 1.0]}}},
    "objective": {"judge": {"kind": "rule", "function": "quickstart"}, "prompts": {"count": 16}},
    "tracking": {"wandb": "disabled"},
}


def study_of(storage: Path, *changes: str) -> Study:
    content = yaml.load(yaml.dump({**CONTENT, "storage": str(storage)}), "study")
    for change in changes:
        override(content, change)
    return build(content, "looked_at", allow_code=True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            [LLM, "objective.judge.template=alpaca"],
            "objective.judge.template: no such template, got 'alpaca'; allowed: hh, .*; did you mean 'alpaca_eval'",
        ),
        ([LLM, "objective.judge.max_cost=5"], "objective.judge.max_cost: never stops anything without price_per_mil"),
        ([LLM, "objective.judge.replay=replies"], "objective.judge.replay: no such file or folder, got 'replies'"),
        (["objective.judge.function=nowhere:quality"], "objective.judge.function: judge rule: no function at 'nowhere"),
        (["objective.judge.function=brevity"], "objective.judge.function: judge rule: no function at 'brevity'"),
        (["objective.opponent=Start"], "objective.opponent: neither start nor chosen nor a file, got 'Start'.*'start'"),
        (["model.sft={source: more.jsonl}"], "model.sft.source: no such file or folder, got 'more.jsonl'"),
        (["data.encoder=./encoder"], "data.encoder: no such file or folder, got './encoder'"),
        (
            ["training.optimizer=adafactor"],
            "methods.dpo.optimizer: adafactor factors .* got stage 2; set zero_stage: 0",
        ),
        (["training.optimizer={choice: [adamw, adafactor, rmsprop]}"], "methods.dpo.optimizer: adafactor .* stage 2"),
        (["model.sft={optimizer: adafactor}"], "model.sft.optimizer: adafactor factors whole matrices"),
        (["resources={zero_stage: 0, offload: true}"], "resources.offload: needs ZeRO stage 1, 2 or 3, got stage 0"),
        (
            ["data.transforms=[{fraction: {choice: [0.5, 2]}}]"],
            r"data.fraction=2.0.transforms\[0\].fraction.share: .* less than or equal to 1, got 2.0",
        ),
        (["search.constraints=[beta > 1]"], "methods.dpo: search.constraints: none of 10000 points satisfies beta > 1"),
        (["search.constraints=[foo > 1]"], "methods.dpo: .*foo"),
    ],
)
def test_what_would_fail_later_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StudyError, match=rf"^{said}[^\n]*$"):
        check(study_of(tmp_path, *changes), lambda _: None)


def test_an_optimizer_that_the_engine_has_and_an_opponents_file_pass(tmp_path: Path) -> None:
    (tmp_path / "answers").write_text("[]")
    passes = ("training.optimizer={choice: [adamw, adafactor]}", f"objective.opponent={tmp_path / 'answers'}")
    check(study_of(tmp_path, *passes, "resources.zero_stage=0"), lambda _: None)


def test_a_judge_that_nobody_answers_for_is_told_where_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("MY_KEY", raising=False)
    study = study_of(tmp_path, "objective.judge={kind: llm, model: m, key_variable: MY_KEY}")
    check(study, lambda _: None)
    with pytest.raises(StudyError, match=r"objective\.judge: no server is named; set MY_KEY for OpenAI, or base_url"):
        check_here(study)
    monkeypatch.setenv("MY_KEY", "secret")
    check_here(study)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["objective.judge={kind: llm, model: m, key_variable: NO_SUCH_KEY}"], "set NO_SUCH_KEY for OpenAI"),
        (["tracking.wandb=online"], "tracking.wandb: online needs a key, found none"),
    ],
)
def test_keys_that_are_missing_are_told_before_a_search_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: list[str], said: str
) -> None:
    for variable in ("OPENAI_BASE_URL", "WANDB_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("raypo.tracking.projection.has_key", lambda _: False)
    file = tmp_path / "looked_at.yaml"
    file.write_text(yaml.dump({**CONTENT, "storage": str(tmp_path / "kept")}))
    words = [word for change in changes for word in ("--set", change)]
    found = CliRunner().invoke(app, ["search", str(file), *words])
    assert isinstance(found.exception, StudyError)
    assert said in str(found.exception)
    assert not (tmp_path / "kept" / "looked_at").exists()


def test_a_plan_refuses_what_a_search_would(tmp_path: Path) -> None:
    for change, said in (("search.constraints=[foo > 1]", "foo"), ("methods={rank_dpo: {}}", "rank_dpo")):
        with pytest.raises(StudyError, match=rf"^methods\..*{said}"):
            planning.plan(study_of(tmp_path, change), lambda _: None, probing=False)
