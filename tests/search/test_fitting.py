"""Data that a method cannot use is refused before anything starts, with what is missing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import ray

from raypo import yaml
from raypo.cli import main
from raypo.errors import DataError, StudyError
from raypo.search.fitting import ROWS, first_records
from raypo.search.preflight import check
from raypo.search.single import train
from raypo.search.sources import read_records
from raypo.study import Study, build

PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}
SCORED = {**PAIR, "chosen_score": 2.0, "rejected_score": 1.0}
LABELLED = {"prompt": "p", "completion": "a", "label": True}
LIST = {"prompt": "p", "completions": ["a", "b", "c"], "scores": [3.0, 2.0, 1.0]}
COUPLE = {"prompt": "p", "completions": ["a", "b"], "scores": [3.0, 2.0]}
SHOWN = {"prompt": "p", "completion": "a"}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def study(tmp_path: Path, rows: Any, *methods: str, **changes: Any) -> Study:
    """A study of those methods on a file of those rows, or on the quickstart."""
    source = "quickstart"
    if rows is not None:
        source = str(tmp_path / "rows.jsonl")
        Path(source).write_text("".join(json.dumps(row) + "\n" for row in rows))
    content: dict[str, Any] = {
        "name": "fit",
        "model": {"path": "quickstart"},
        "data": {"source": source, **changes.pop("data", {})},
        "methods": {name: {"aggregate": "sum"} if name == "ipo" else {} for name in methods},
        "objective": {"judge": {"kind": "rule", "function": "quickstart"}},
        "storage": str(tmp_path / "searches"),
    }
    return build({**content, **changes}, "fit")


def problems(wanted: Study) -> list[str]:
    with pytest.raises(StudyError) as told:
        check(wanted, lambda _: None)
    return str(told.value).splitlines()


@pytest.mark.parametrize(
    ("row", "method", "missing"),
    [
        (LABELLED, "dpo", "the method takes pairs data, the rows are unpaired"),
        (SHOWN, "kto", "the method takes unpaired data, the rows are completions"),
        (LIST, "simpo", "the method takes pairs data, the rows are ranked; add the transform lists_to_pairs"),
        (LABELLED, "rrhf", "the method takes ranked data, the rows are unpaired"),
        (PAIR, "odpo", "odpo needs a score of every answer, {file} row 1 has none"),
        (COUPLE, "rank_dpo", "rank_dpo needs 3 or more scored answers to a prompt, {file} row 1 and the others"),
        (PAIR, "brain", "brain needs 3 or more scored answers to a prompt"),
    ],
)
def test_each_lack_is_named(tmp_path: Path, row: dict[str, Any], method: str, missing: str) -> None:
    (problem,) = problems(study(tmp_path, [row] * 3, method))
    assert problem.startswith(f"methods.{method}: ")
    assert missing.format(file=tmp_path / "rows.jsonl") in problem


@pytest.mark.parametrize(
    ("rows", "methods"),
    [
        ([PAIR] * 3, ("dpo", "kto", "sft", "rrhf", "simpo", "ipo")),
        ([SCORED] * 3, ("odpo",)),
        ([LIST, COUPLE], ("rank_dpo", "brain", "rrhf", "sft")),
        ([LABELLED] * 3, ("kto", "offline_ppo", "rpo_unpaired", "sft")),
    ],
)
def test_what_fits_passes(tmp_path: Path, rows: list[dict[str, Any]], methods: tuple[str, ...]) -> None:
    check(study(tmp_path, rows, *methods), lambda _: None)


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    found = problems(study(tmp_path, [PAIR] * 3, "dpo", "odpo", "rank_dpo"))
    assert [line.split(":")[0] for line in found] == ["methods.odpo", "methods.rank_dpo"]


def test_transforms_that_change_what_a_row_is_are_counted_in(tmp_path: Path) -> None:
    pairs_of_lists = {"transforms": [{"lists_to_pairs": {"choice": ["best_worst", "all"]}}, {"fraction": 0.1}]}
    check(study(tmp_path, [LIST] * 3, "dpo", "odpo", data=pairs_of_lists), lambda _: None)
    (problem,) = problems(study(tmp_path, [LIST] * 3, "rank_dpo", data=pairs_of_lists))
    assert "at most 2" in problem


TIE = {**PAIR, "chosen_score": 2.0, "rejected_score": 2.0}


@pytest.mark.parametrize(
    ("scale", "row", "said"),
    [
        ("log", TIE, "above 0 for scale log, 1 of 4 pairs looked at have none such: {file} row 4 has 2 against 2; "),
        ("log1p", {**TIE, "chosen_score": 1.0}, "above -1 for scale log1p, 1 of 4 pairs"),
        ({"choice": ["identity", "log"]}, TIE, "above 0 for scale log, 1 of 4 pairs"),
        ("log1p", TIE, None),
        ("identity", {**TIE, "chosen_score": -5.0}, None),
    ],
)
def test_score_gaps_that_a_scale_cannot_take_are_told_with_an_example(
    tmp_path: Path, scale: Any, row: dict[str, Any], said: str | None
) -> None:
    wanted = study(tmp_path, [SCORED] * 3 + [row], methods={"odpo": {"scale": scale}, "dpo": {}})
    if said is None:
        check(wanted, lambda _: None)
        return
    (problem,) = problems(wanted)
    assert problem.startswith("methods.odpo: odpo needs score gaps (chosen minus rejected) ")
    assert said.format(file=tmp_path / "rows.jsonl") in problem
    assert "filter: {min_margin: ...} above " in problem


@pytest.mark.parametrize("flipped", [{"choice": [0.0, 0.25]}, {"uniform": [0.0, 0.25]}])
def test_every_value_of_a_transforms_axis_is_looked_at(tmp_path: Path, flipped: dict[str, Any]) -> None:
    rows = [{**SCORED, "prompt": f"{i}"} for i in range(8)]
    noisy = [{"flip_labels": flipped}, {"fraction": {"choice": [0.5, 1.0]}}]
    (problem,) = problems(study(tmp_path, rows, "odpo", "dpo", data={"transforms": noisy}))
    assert "2 of 8 pairs looked at have none such" in problem
    assert "has 1 against 2" in problem
    check(study(tmp_path, rows, "odpo", data={"transforms": [*noisy, {"filter": {"min_margin": 0.1}}]}), lambda _: None)


def test_rows_that_a_judge_cannot_learn_from_are_told_before_anything_starts(tmp_path: Path) -> None:
    file = tmp_path / "judged.jsonl"
    file.write_text(json.dumps({"question": "Why ?", "better": "So .", "worse": "No ."}))
    columns = {"prompt": "question", "chosen": "better", "rejected": "worse"}
    judge = {"kind": "bradley_terry", "source": str(file)}
    (problem,) = problems(study(tmp_path, [PAIR] * 3, "dpo", objective={"judge": judge}))
    assert problem.startswith(f"objective.judge: {file} row 1")
    check(study(tmp_path, [PAIR] * 3, "dpo", objective={"judge": {**judge, "columns": columns}}), lambda _: None)


def test_a_filter_that_none_of_the_first_rows_passes_accuses_no_one(tmp_path: Path) -> None:
    rows = [{**PAIR, "chosen": "short"}] * (ROWS + 1) + [{**PAIR, "chosen": "x" * 50}]
    check(study(tmp_path, rows, "dpo", data={"transforms": [{"filter": {"min_chars": 40}}]}), lambda _: None)


def test_transforms_of_prompts_and_judge_are_read_before_anything_starts(tmp_path: Path) -> None:
    prompts = {"transforms": [{"filter": {"turns": 1}}]}
    judge = {"kind": "bradley_terry", "source": "quickstart", "transforms": [{"splt": [0, 1]}]}
    confirm = {"prompts": {"transforms": [{"split": [0, 2]}]}}
    wanted = study(tmp_path, None, "dpo", objective={"judge": judge, "prompts": prompts}, confirm=confirm)
    assert [problem.split(": ")[0] for problem in problems(wanted)] == [
        "objective.prompts.transforms[0].filter.turns",
        "objective.judge.transforms[0]",
        "confirm.prompts.transforms[0].split.high",
    ]


def test_only_the_first_rows_are_read(tmp_path: Path) -> None:
    wanted = study(tmp_path, [PAIR] * ROWS, "dpo")
    with Path(wanted.data.source).open("a") as file:
        file.write("this is no JSON\n")
    assert [len(records) for records in first_records(wanted)] == [ROWS]
    with pytest.raises(DataError, match=f"row {ROWS + 1}: not JSON"):
        read_records(wanted.data.source)


def test_lists_whose_rows_lie_apart_are_gathered_from_the_whole_file(tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}", "completion": f"{k}", "score": float(k)} for k in range(3) for i in range(ROWS)]
    check(study(tmp_path, rows, "rank_dpo"), lambda _: None)


def test_a_turn_weighing_method_on_single_turns_trains_and_is_remarked_on(tmp_path: Path) -> None:
    said: list[str] = []
    check(study(tmp_path, None, "dmpo", "dpo"), said.append)
    assert [line for line in said if "dmpo: weighs the turns" in line]
    talk = [
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c"},
    ]
    said.clear()
    rows, framed = [{"prompt": "p", "chosen": talk, "rejected": talk[:1]}] * 3, {"chat_template": "default"}
    check(study(tmp_path, rows, "dmpo", data=framed), said.append)
    assert not [line for line in said if "weighs the turns" in line]


def test_questions_must_be_framed_as_the_training_rows_are(tmp_path: Path) -> None:
    """Without a template of the study's own, conversations go through the model's and plain text stays as it is."""
    talk = {side: [user("p"), {"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
    (tmp_path / "plain.jsonl").write_text(json.dumps(SHOWN) + "\n")
    (tmp_path / "talk.jsonl").write_text(json.dumps({"messages": [user("p"), *talk["chosen"][1:]]}) + "\n")
    for row, asked, expected in (
        (talk, "plain", "training rows are conversations, evaluation prompts plain text"),
        (PAIR, "talk", "training rows are plain text, evaluation prompts conversations"),
    ):
        objective = {
            "judge": {"kind": "rule", "function": "quickstart"},
            "prompts": {"source": str(tmp_path / f"{asked}.jsonl")},
        }
        (problem,) = problems(study(tmp_path, [row], "dpo", objective=objective))
        assert problem.startswith("data.chat_template: ")
        assert expected in problem
        check(study(tmp_path, [row], "dpo", objective=objective, data={"chat_template": "default"}), lambda _: None)
        check(study(tmp_path, [row], "dpo"), lambda _: None)


def test_questions_that_cannot_be_read_are_told_before_anything_starts(tmp_path: Path) -> None:
    objective = {
        "judge": {"kind": "rule", "function": "quickstart"},
        "prompts": {"source": str(tmp_path / "rows.jsonl"), "format": "hh"},
    }
    (problem,) = problems(study(tmp_path, [PAIR], "dpo", objective=objective))
    assert problem.startswith("objective.prompts: ")


def test_what_the_engine_cannot_give_is_refused(tmp_path: Path) -> None:
    exact = {"offline_ppo": {"kl_mode": {"choice": ["k3_ref", "exact"]}}}
    (problem,) = problems(study(tmp_path, None, methods=exact, resources={"workers": 2, "zero_stage": 3}))
    assert problem.startswith("methods.offline_ppo: exact KL needs whole LM heads, got resources.zero_stage 3")
    check(study(tmp_path, None, methods=exact), lambda _: None)
    (problem,) = problems(study(tmp_path, None, "tr_dpo", model={"path": "quickstart", "lora": {}}))
    assert "a moving reference cannot be mixed from adapters" in problem


def test_the_quickstart_has_scored_pairs_and_ranked_lists(tmp_path: Path) -> None:
    check(study(tmp_path, None, "odpo", "dpo", "rrhf"), lambda _: None)
    check(study(tmp_path, None, "rank_dpo", "brain", data={"format": {"ranked": {"answers": 3}}}), lambda _: None)
    (problem,) = problems(study(tmp_path, None, "dpo", data={"format": "hh"}))
    assert "the quickstart has pairs, ranked" in problem
    for odd in ({"ranked": {"answers": "x"}}, {"ranked": {"answers": True}}, {"hh": {}}):
        with pytest.raises(DataError, match="the quickstart has pairs, ranked and"):
            read_records("quickstart", format=odd)
    with pytest.raises(DataError, match=r"data.format: needs one name, or one with its options, got"):
        read_records("quickstart", format={})


def test_training_one_configuration_is_refused_too(tmp_path: Path) -> None:
    wanted = study(tmp_path, [PAIR] * 3, "dpo", "odpo")
    with pytest.raises(StudyError, match=r"methods\.odpo: odpo needs a score"):
        train(wanted, "odpo", "one", lambda _: None)
    assert not (tmp_path / "searches").exists()


def test_the_command_ends_with_2_before_ray_and_leaves_no_search_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = study(tmp_path, [PAIR] * 3, "odpo", "rank_dpo")
    (tmp_path / "study.yaml").write_text(yaml.dump(wanted.written()))
    monkeypatch.setattr(sys, "argv", ["raypo", "search", str(tmp_path / "study.yaml")])
    monkeypatch.setattr(ray, "init", pytest.fail)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == ["methods.odpo", "methods.rank_dpo"]
    assert not (tmp_path / "searches").exists()
