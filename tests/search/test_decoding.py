"""Evaluation prompts are cut as in training and to the model's context, and a person is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small_bench import Pulse, job_of, open_bench, small_study
from transformers import BloomConfig, GPT2Config, GPT2LMHeadModel

from raypo.data.records import Text
from raypo.errors import StudyError
from raypo.quickstart.model import word_tokenizer
from raypo.search.decoding import sampling_of
from raypo.search.forecast import _answer
from raypo.study import Study

POSITIONS = 32


def brevity(_prompt: Text, answer: str) -> float:
    return -float(len(answer))


@pytest.fixture
def learned(tmp_path: Path) -> Path:
    """A model with learned positions: one token too many is an IndexError, where rotary ones would go on."""
    tokenizer = word_tokenizer()
    end = tokenizer.eos_token_id
    shape = {"n_positions": POSITIONS, "n_embd": 16, "n_layer": 1, "n_head": 2}
    config = GPT2Config(vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=end, pad_token_id=end, **shape)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "learned")
    tokenizer.save_pretrained(tmp_path / "learned")
    return tmp_path / "learned"


def study_of(tmp_path: Path, model: Path, sampling: dict[str, Any] | None = None, **data: Any) -> Study:
    """Three evaluation prompts, the first of 60 tokens; conversations where the study has a template for them."""
    file = tmp_path / "asked.jsonl"
    rows = [{"user": text, "assistant": "a"} for text in ("red " * 60, "list 2", "list 3")]
    if data.get("chat_template"):
        rows = [{role: [{"role": role, "content": text}] for role, text in row.items()} for row in rows]
    written = [{"prompt": row["user"], "chosen": row["assistant"], "rejected": "b"} for row in rows]
    file.write_text("".join(json.dumps(row) + "\n" for row in written))
    judge = {"kind": "rule", "function": f"{__name__}:brevity"}
    objective = {"judge": judge, "prompts": {"source": str(file), "split": "train", "count": 3}}
    if sampling:
        objective["sampling"] = sampling
    data = {"max_length": POSITIONS, **data}
    return small_study(tmp_path, allow_code=True, model={"path": str(model)}, data=data, objective=objective)


@pytest.mark.parametrize("template", [None, "transcript"])
def test_a_prompt_longer_than_the_context_is_cut_and_told(tmp_path: Path, learned: Path, template: str | None) -> None:
    study = study_of(tmp_path, learned, chat_template=template)
    bench = open_bench(study, tmp_path / "small")
    try:
        assert bench.run(job_of(study, "dpo-0000"), Pulse()).state == "finished"
        assert bench._told()[-1] == "evaluation: 3 prompts of at most 26 tokens; truncated 1 (prompt start)"
        assert _answer(bench._trainer_for({}), bench.materials) > 0, "what a plan probes is written and cut alike"
    finally:
        bench.close()


def test_the_opponent_answers_anew_where_other_prompts_are_read(tmp_path: Path, learned: Path) -> None:
    for longest in (8, 8, 9):
        open_bench(study_of(tmp_path, learned, max_prompt_length=longest), tmp_path / "small").close()
    assert len(list((tmp_path / "artifacts").glob("completions/*/answers.json"))) == 2


@pytest.mark.parametrize(
    ("data", "most", "cut"),
    [
        ({}, POSITIONS - 6, "prompt_start"),
        ({"max_length": 20}, 19, "prompt_start"),
        ({"max_prompt_length": 8, "truncation": "prompt_end"}, 8, "prompt_end"),
        ({"max_prompt_length": 8, "truncation": "drop"}, 8, "prompt_start"),
        ({"max_length": 4096, "max_prompt_length": 2048}, POSITIONS - 6, "prompt_start"),
    ],
)
def test_prompts_are_as_long_as_in_training_or_as_the_context_allows(
    tmp_path: Path, learned: Path, data: dict[str, Any], most: int, cut: str
) -> None:
    found = sampling_of(study_of(tmp_path, learned, **data), learned)
    assert (found.max_prompt_tokens, found.cut, found.max_new_tokens) == (most, cut, 6)


def test_a_model_without_bound_takes_what_training_takes(tmp_path: Path) -> None:
    BloomConfig().save_pretrained(tmp_path / "endless")
    study = study_of(tmp_path, tmp_path / "endless", max_length=5000)
    assert sampling_of(study, tmp_path / "endless").max_prompt_tokens == 4999


def test_answers_that_leave_no_room_are_refused_before_anything_is_made(tmp_path: Path, learned: Path) -> None:
    assert sampling_of(study_of(tmp_path, learned, {"max_new_tokens": POSITIONS - 1}), learned).max_prompt_tokens == 1
    study = study_of(tmp_path, learned, {"max_new_tokens": POSITIONS})
    with pytest.raises(StudyError, match=r"max_new_tokens: leaves no room .*, got 32; .* is 32 tokens.* fewer than 32"):
        open_bench(study, tmp_path / "small")
    assert not list(tmp_path.glob("artifacts/*/*/")), "neither tokens nor log-probs"
