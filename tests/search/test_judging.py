"""The judge that a study trains before its search."""

from __future__ import annotations

from pathlib import Path

from raypo.artifacts import Store
from raypo.search.judging import trained_reward_model
from raypo.search.materials import Materials
from raypo.study import build


def test_a_judge_of_one_part_of_the_data_has_held_out_pairs_of_its_own(tmp_path: Path) -> None:
    judge = {"kind": "bradley_terry", "source": "quickstart", "count": 120, "transforms": [{"split": [0.5, 1]}]}
    study = build(
        {
            "name": "judged",
            "model": {"path": "quickstart"},
            "data": {"source": "quickstart", "transforms": [{"split": [0, 0.5]}]},
            "methods": {"dpo": {"beta": 0.1}},
            "objective": {"judge": judge},
            "storage": str(tmp_path),
        },
        "judged",
    )
    said: list[str] = []
    folder = trained_reward_model(Materials(study, Store(tmp_path / "artifacts"), said.append), "cpu")
    assert (folder / "config.json").is_file()
    assert any("held-out pairs" in text for text in said)
