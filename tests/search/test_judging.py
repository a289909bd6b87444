"""The judge that a study trains before its search."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from raypo.artifacts import Store
from raypo.data.rendering import TEMPLATES
from raypo.errors import DataError
from raypo.evaluation.judges import Comparison
from raypo.quickstart import model as tiny
from raypo.search.judging import make_judge, trained_reward_model
from raypo.search.materials import Materials
from raypo.study import build

COLUMNS = {"prompt": "q", "chosen": "good", "rejected": "bad"}


def materials(folder: Path, judge: dict[str, Any], said: list[str] | None = None, **data: Any) -> Materials:
    content = {
        "name": "judged",
        "model": {"path": "quickstart"},
        "data": {"source": "quickstart", **data},
        "methods": {"dpo": {"beta": 0.1}},
        "objective": {"judge": {"kind": "bradley_terry", "source": "quickstart", "count": 40, **judge}},
        "storage": str(folder),
    }
    say = (said if said is not None else []).append
    return Materials(build(content, "judged"), Store(folder / "artifacts"), say)


def written(path: Path, **row: Any) -> str:
    """A file of 60 such rows, in each of which `#` is its number."""
    rows = (json.dumps(row).replace("#", str(i)) for i in range(60))
    path.write_text("\n".join(rows))
    return str(path)


def pairs_in(said: list[str]) -> int:
    """How many pairs a judge was trained and tested on."""
    return sum(int(count) for text in said for count in re.findall(r"(\d+) (?:held-out )?pairs", text))


def test_a_judge_of_one_part_of_the_data_has_held_out_pairs_of_its_own(tmp_path: Path) -> None:
    said: list[str] = []
    judge = {"count": 120, "transforms": [{"split": [0.5, 1]}]}
    folder = trained_reward_model(materials(tmp_path, judge, said, transforms=[{"split": [0, 0.5]}]), "cpu")
    assert (folder / "config.json").is_file()
    assert any("held-out pairs" in text for text in said)


def test_a_model_without_a_chat_template_judges_conversations(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "list # animals"}]
    source = written(tmp_path / "talks.jsonl", prompt=turns, chosen="cat dog", rejected="count")
    shared = materials(tmp_path, {"source": source}, source=source, chat_template="transcript")
    judge = make_judge(shared, "cpu", tmp_path)
    (verdict,) = judge.judge([Comparison(({"role": "user", "content": "list 3 animals"},), "cat dog", "count")])
    assert verdict.parsed


def test_a_judge_is_made_again_for_another_of_our_templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TEMPLATES, "terse", "{% for m in messages %} {{ m.content }}{% endfor %}")
    names = (None, "transcript", "{{ messages }}", "terse")
    made = [trained_reward_model(materials(tmp_path, {}, chat_template=name), "cpu") for name in names]
    assert made[0] == made[1] == made[2] != made[3]
    found = materials(tmp_path, {"kind": "reward_model", "path": str(made[0])}, chat_template="terse")
    judge: Any = make_judge(found, "cpu", tmp_path)
    assert judge.rater.identity["chat_template"] == TEMPLATES["terse"]


def test_a_judge_is_made_again_when_the_model_in_its_folder_is_another(tmp_path: Path) -> None:
    base, copy = tmp_path / "base", tmp_path / "copy"
    tiny.build(base)
    tiny.build(copy)
    first, same = (trained_reward_model(materials(tmp_path, {"path": str(path)}), "cpu") for path in (base, copy))
    tiny.build(base, seed=1)
    assert same == first != trained_reward_model(materials(tmp_path, {"path": str(base)}), "cpu")


@pytest.mark.parametrize(
    ("own", "data"),
    [
        ({"columns": COLUMNS}, {"source": "quickstart"}),
        ({"format": {"pairs": {"empty": "drop"}}, "columns": COLUMNS}, {}),
        ({}, {"columns": COLUMNS}),
        ({"columns": COLUMNS}, {"columns": {"prompt": "nowhere"}}),
    ],
)
def test_the_judges_pairs_are_read_as_it_says_or_as_the_data_they_are_of(
    own: dict[str, Any], data: dict[str, Any], tmp_path: Path
) -> None:
    source = written(tmp_path / "named.jsonl", q="question #", good="answer #", bad="no")
    said: list[str] = []
    shared = materials(tmp_path, {"source": source, **own}, said, **{"source": source, **data})
    assert trained_reward_model(shared, "cpu").is_dir()
    assert pairs_in(said) == 40


def test_a_judge_of_the_quickstart_has_pairs_where_the_data_has_lists(tmp_path: Path) -> None:
    assert trained_reward_model(materials(tmp_path, {}, format={"ranked": {"answers": 4}}), "cpu").is_dir()


def test_pairs_that_cannot_be_read_are_told_as_the_judges(tmp_path: Path) -> None:
    source = written(tmp_path / "named.jsonl", q="question #", good="answer #", bad="no")
    with pytest.raises(DataError, match=r"^objective\.judge: .*no such format 'pear'"):
        trained_reward_model(materials(tmp_path, {"source": source, "format": "pear"}), "cpu")


def test_a_judge_may_mix_its_pairs(tmp_path: Path) -> None:
    source = written(tmp_path / "more.jsonl", prompt="question #", chosen="answer #", rejected="no")
    said: list[str] = []
    shared = materials(tmp_path, {"transforms": [{"mix": {"share": 0.5, "source": source}}]}, said)
    assert trained_reward_model(shared, "cpu").is_dir()
    assert pairs_in(said) == 80
