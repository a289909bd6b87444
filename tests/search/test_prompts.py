"""Prompts are not those of the training, and the confirmation's not those of the search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raypo.artifacts import Store
from raypo.data.sources import has_splits
from raypo.errors import DataError
from raypo.search.data_notes import overlap_note
from raypo.search.materials import Materials
from raypo.study import build


def materials(folder: Path, heldout: float, objective: dict[str, Any], **confirm: Any) -> Materials:
    rows = [{"question": f"What is {i} ?", "chosen": f"It is {i}", "rejected": "No"} for i in range(120)]
    file = folder / "mine.jsonl"
    file.write_text("\n".join(map(json.dumps, [*rows, rows[3]])))
    content = {
        "name": "asked",
        "model": {"path": "quickstart"},
        "data": {"source": str(file), "heldout": heldout, "max_length": 48, "columns": {"prompt": "question"}},
        "methods": {"dpo": {"beta": 0.1}},
        "objective": {"judge": {"kind": "rule", "function": "quickstart"}, "prompts": objective},
        "confirm": confirm,
        "resources": {"zero_stage": 0},
    }
    return Materials(build(content, "asked"), Store(folder / "artifacts"), lambda _: None)


def texts(found: Materials, confirm: bool = False) -> list[str]:
    return [str(prompt.text) for prompt in found.prompts(confirm)]


def test_prompts_of_a_file_are_those_that_no_trial_learns_from(tmp_path: Path) -> None:
    found = materials(tmp_path, 0.5, {"count": 20})
    trained = [record.prompt for record in found.training_records("pairs", {})]
    assert len(set(texts(found))) == 20
    assert overlap_note(trained, texts(found)) is None
    assert all(str(prompt.best).startswith("It is ") for prompt in found.prompts())
    assert not any("occur in training" in note for note in found.notes())


def test_a_confirmation_asks_others_than_the_search(tmp_path: Path) -> None:
    found = materials(tmp_path, 0.5, {"count": 20}, top=1)
    assert len(texts(found, confirm=True)) == 20
    assert not {*texts(found)} & {*texts(found, confirm=True)}
    named = {"source": str(tmp_path / "mine.jsonl"), "columns": {"prompt": "question"}, "count": 30}
    same = materials(tmp_path, 0.5, named, top=1, prompts={**named, "split": "confirm", "count": 80})
    assert texts(same) == [f"What is {i} ?" for i in range(30)]
    assert texts(same, confirm=True) == [f"What is {i} ?" for i in range(30, 110)]


@pytest.mark.parametrize("split", ["test", "confirm"])
def test_a_confirmation_on_the_quickstart_asks_others_too(tmp_path: Path, split: str) -> None:
    content = {
        "name": "asked",
        "model": {"path": "quickstart"},
        "data": {"source": "quickstart"},
        "methods": {"dpo": {"beta": 0.1}},
        "objective": {"judge": {"kind": "rule", "function": "quickstart"}, "prompts": {"count": 100}},
        "confirm": {"top": 1, "prompts": {"split": split, "count": 600}},
    }
    found = Materials(build(content, "asked"), Store(tmp_path), lambda _: None)
    asked = texts(found, confirm=True)
    assert len(set(asked)) == 600
    assert not {*texts(found)} & {*asked}


def test_confirmation_prompts_that_occur_in_training_are_told(tmp_path: Path) -> None:
    named = {"source": str(tmp_path / "mine.jsonl"), "columns": {"prompt": "question"}, "count": 10}
    found = materials(tmp_path, 0.5, {"count": 10}, top=1, prompts=named)
    assert any("of 10 confirmation prompts occur in training" in note for note in found.notes())


@pytest.mark.parametrize(
    ("heldout", "confirm", "said"),
    [
        (
            0.0,
            False,
            "objective.prompts: .*mine.jsonl has no splits.*data.heldout 0 leaves 0 different ones, the study",
        ),
        (
            0.5,
            True,
            r"confirm.prompts: .* leaves \d+ different ones that the search does not ask, the study asks for 45",
        ),
    ],
)
def test_too_few_prompts_say_what_to_raise(tmp_path: Path, heldout: float, confirm: bool, said: str) -> None:
    with pytest.raises(DataError, match=said):
        materials(tmp_path, heldout, {"count": 45}, top=1).prompts(confirm)


def test_files_and_functions_have_no_splits(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert [has_splits(s) for s in ("rows.jsonl.gz", "package.module:rows", str(tmp_path / "folder"), "org/name")] == [
        False,
        False,
        True,
        True,
    ]
