"""What the policy is compared with: the data's own best answers, or those of a file, as text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raypo.errors import StudyError
from raypo.search.opponents import Prompt, chosen_answers, read_answers
from raypo.search.prompts import read_prompts

TURNS = {
    "prompt": "Why?",
    "all_generated_responses": ["So.", "No."],
    "all_rm_scores": [0.9, 0.1],
    "chosen": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}],
    "rejected": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "No."}],
}


def prompts(folder: Path, rows: list[dict[str, Any]], **how: Any) -> list[Prompt]:
    """The first evaluation prompt of a file of those rows."""
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [Prompt(*found, source="rows.jsonl") for found in read_prompts(str(file), split="test", count=1, **how)]


@pytest.mark.parametrize(
    ("rows", "how", "best"),
    [
        ([{"prompt": "p", "chosen": "good", "rejected": "bad"}], {}, "good"),
        ([TURNS], {"format": "princeton"}, "So."),
        ([{"prompt": "p", "completions": ["worst", "best"], "scores": [1, 9]}], {}, "best"),
        ([{"prompt": "p", "completion": answer, "label": answer == "good"} for answer in ("bad", "good")], {}, "good"),
        ([{"prompt": "p", "completion": "shown"}], {}, "shown"),
    ],
)
def test_the_chosen_opponent_gives_the_best_answer_as_text(
    tmp_path: Path, rows: list[dict[str, Any]], how: dict[str, Any], best: str
) -> None:
    assert chosen_answers(prompts(tmp_path, rows, **how)) == [best]


def test_a_prompt_with_bad_answers_alone_has_no_chosen_one(tmp_path: Path) -> None:
    found = prompts(tmp_path, [{"prompt": "Say it", "completion": "bad", "label": False}])
    assert found[0].best is None
    with pytest.raises(StudyError, match=r"rows\.jsonl has none for 1 of 1, such as 'Say it'; take objective\.prompts"):
        chosen_answers(found)


def test_an_answer_in_a_file_may_be_a_text_or_messages(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    rows = [
        {"prompt": "Why?", "answer": [{"role": "assistant", "content": "So."}]},
        {"prompt": "Who?", "answer": "We."},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = [Prompt(prompt, None, "rows.jsonl") for prompt in ("Who?", "Why?")]
    assert read_answers(file, asked) == ["We.", "So."]
    with pytest.raises(StudyError, match=r"answers\.jsonl has no answer for 1 of 1 prompts, such as 'How\?'"):
        read_answers(file, [Prompt("How?", None, "rows.jsonl")])
