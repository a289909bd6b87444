"""What the trials of a study share: the starting model learns from the data that trials may see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raypo.artifacts import Store
from raypo.data.records import Demonstration, Record
from raypo.errors import StudyError
from raypo.search.bench import TrialBench
from raypo.search.jobs import Job
from raypo.search.materials import Materials
from raypo.study import build
from raypo.study.training import Lora
from raypo.training.settings import EngineSetup

FLIPPED = {"flip_labels": {"choice": [0.0, 1.0]}}
HALF = {"split": [0, 0.5]}


def pairs_file(folder: Path, name: str, count: int = 60) -> Path:
    rows = [
        {"prompt": f"{name} question {i} ?", "chosen": f"good {i}", "rejected": f"bad {'x ' * (i % 3)}{i}"}
        for i in range(count)
    ]
    path = folder / f"{name}.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def materials(folder: Path, transforms: list[dict[str, Any]], **sft: Any) -> Materials:
    content = {
        "name": "shared",
        "model": {"path": "quickstart", "sft": {"lr": 1e-3, "batch_size": 16, **sft}},
        "data": {"source": str(pairs_file(folder, "mine")), "transforms": transforms, "max_length": 48},
        "methods": {"dpo": {"beta": 0.1}},
        "objective": {"judge": {"kind": "rule", "function": "quickstart"}},
        "resources": {"zero_stage": 0},
    }
    return Materials(build(content, "shared"), Store(folder / "artifacts"), lambda _: None)


def prompts(records: list[Record]) -> set[str]:
    return {str(record.prompt) for record in records}


def answers(records: list[Record]) -> list[str]:
    assert all(isinstance(record, Demonstration) for record in records)
    return [str(record.completions[0]) for record in records]


def test_the_start_imitates_no_prompt_that_the_data_leaves_out(tmp_path: Path) -> None:
    shared = materials(tmp_path, [HALF, {"filter": {"max_chars": 8}}])
    trained = prompts(shared.training_records("pairs", {}))
    assert prompts(shared.sft_records()) == trained
    assert 0 < len(trained) < 30


def test_the_start_imitates_added_rows_too(tmp_path: Path) -> None:
    other = pairs_file(tmp_path, "other")
    shared = materials(tmp_path, [{"mix": {"share": 0.25, "source": str(other)}}])
    assert any(prompt.startswith("other") for prompt in prompts(shared.sft_records()))
    assert prompts(shared.sft_records()) == prompts(shared.training_records("pairs", {}))


def test_noise_that_all_trials_share_reaches_the_start_and_searched_noise_does_not(tmp_path: Path) -> None:
    fixed, searched = materials(tmp_path, [{"flip_labels": 1.0}]), materials(tmp_path, [FLIPPED, HALF])
    assert all(answer.startswith("bad") for answer in answers(fixed.sft_records()))
    assert all(answer.startswith("good") for answer in answers(searched.sft_records()))
    assert prompts(searched.sft_records()) == prompts(searched.training_records("pairs", {"data.flip_labels": 0.0}))


def test_a_source_of_its_own_is_taken_as_it_is(tmp_path: Path) -> None:
    other = pairs_file(tmp_path, "other")
    shared = materials(tmp_path, [HALF, {"flip_labels": 1.0}], source=str(other), count=40)
    assert answers(shared.sft_records()) == [f"good {i}" for i in range(40)]


def test_the_first_rows_are_those_that_are_left(tmp_path: Path) -> None:
    found = materials(tmp_path, [HALF], count=5).sft_records()
    assert found == materials(tmp_path, [HALF]).sft_records()[:5]
    assert len(found) == 5


@pytest.mark.parametrize(
    ("transforms", "same"),
    [([HALF, FLIPPED], True), ([{"split": [0, 0.8]}], False), ([HALF, {"flip_labels": 1}], False)],
)
def test_the_start_is_found_again_where_what_it_imitates_is_the_same(
    transforms: list[dict[str, Any]], same: bool, tmp_path: Path
) -> None:
    first, second = (materials(tmp_path, given, epochs=0.1).start for given in ([HALF], transforms))
    assert (first == second) is same


def test_a_search_of_another_seed_does_not_find_the_start_of_this_one(tmp_path: Path) -> None:
    first = materials(tmp_path, [], epochs=0.1)
    search = first.study.search.model_copy(update={"seed": 1})
    second = Materials(first.study.model_copy(update={"search": search}), first.store, lambda _: None)
    assert first.start != second.start
    assert first.start_hash != second.start_hash, "it is trained in another order"


@pytest.mark.parametrize(
    ("setting", "value"),
    [("optimizer", "rmsprop"), ("schedule", "constant"), ("warmup", 0.9), ("gradient_clipping", 1e-3)],
)
def test_the_start_is_trained_as_sft_says(setting: str, value: Any, tmp_path: Path) -> None:
    usual, other = (materials(tmp_path, [], **given).start for given in ({}, {setting: value}))
    assert (usual / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()


def lists(folder: Path, transforms: list[dict[str, Any]], scores: list[int], heldout: float = 0.5) -> Materials:
    rows = [{"prompt": f"name {i} ?", "completions": ["1 2 3", "1 2", "1"], "scores": scores} for i in range(40)]
    (folder / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    content = {
        "name": "lists",
        "model": {"path": "quickstart"},
        "data": {
            "source": str(folder / "mine.jsonl"),
            "transforms": transforms,
            "heldout": heldout,
            "max_length": 48,
        },
        "methods": {"dpo": {"beta": 0.1}},
        "objective": {"judge": {"kind": "rule", "function": "quickstart"}},
        "resources": {"zero_stage": 0},
    }
    return Materials(build(content, "lists"), Store(folder / "artifacts"), lambda _: None)


def test_held_out_lists_become_pairs_as_those_of_training_do(tmp_path: Path) -> None:
    shared = lists(tmp_path, [{"flip_labels": 1.0}, {"lists_to_pairs": "all"}], [3, 2, 1])
    held = shared.heldout_tokens({})
    assert held is not None
    assert held.set.kind == "pairs"
    assert len(held.set) % 3 == 0 < len(held.set)


def test_held_out_lists_become_pairs_as_the_trial_says(tmp_path: Path) -> None:
    shared = lists(tmp_path, [{"lists_to_pairs": {"choice": ["best_worst", "all"]}}], [3, 2, 1])
    few, many = (shared.heldout_tokens({"data.lists_to_pairs": take}) for take in ("best_worst", "all"))
    assert few is not None
    assert many is not None
    assert len(many.set) == 3 * len(few.set) > 0
    assert shared.heldout_tokens({"data.lists_to_pairs": "all"}) is many


@pytest.mark.parametrize(("scores", "heldout"), [([3, 2, 1], 0.0), ([1, 1, 1], 0.5)])
def test_no_held_out_list_that_makes_a_pair_ends_no_trial(tmp_path: Path, scores: list[int], heldout: float) -> None:
    assert lists(tmp_path, [{"lists_to_pairs": "all"}], scores, heldout).heldout_tokens({}) is None


def test_held_out_rows_that_are_all_dropped_end_no_trial_but_are_told_where_they_are_the_objective(
    tmp_path: Path,
) -> None:
    rows = [{"prompt": f"name {i} ?", "chosen": "1", "rejected": "1"} for i in range(20)]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    content = {
        "name": "same",
        "model": {"path": "quickstart"},
        "data": {"source": str(tmp_path / "mine.jsonl"), "heldout": 0.5, "max_length": 48},
        "methods": {"dpo": {"beta": 0.1}},
        "objective": {
            "judge": {"kind": "rule", "function": "quickstart"},
            "prompts": {"source": "quickstart", "count": 4},
            "sampling": {"max_new_tokens": 8},
            "metric": "reward_accuracy",
        },
        "resources": {"zero_stage": 0},
        "storage": str(tmp_path),
    }
    bench = TrialBench(content, "same", str(tmp_path / "same"), allow_code=False)
    assert bench.materials.heldout_tokens({}) is None
    with pytest.raises(StudyError, match=r"data.heldout: reward_accuracy .* 0.5 of .*mine.jsonl leaves none"):
        bench.run(Job("prepare", "prepare", {}, 0, 1.0, kind="prepare"), lambda *_: None)


def test_the_start_learns_in_micro_batches_of_the_study_and_of_adapters_where_trials_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setups: list[EngineSetup] = []

    def note(setup: EngineSetup) -> None:
        setups.append(setup)
        raise InterruptedError

    monkeypatch.setattr("raypo.search.starting.Trainer", note)
    shared = materials(tmp_path, [])
    changed = shared.study.model_copy(
        update={
            "model": shared.study.model.model_copy(update={"lora": Lora(rank=4)}),
            "training": shared.study.training.model_copy(update={"micro_batch_size": 2}),
        }
    )
    with pytest.raises(InterruptedError):
        _ = Materials(changed, Store(tmp_path / "artifacts"), lambda _: None).start
    (setup,) = setups
    assert (setup.micro_batch_size, setup.lora and setup.lora.rank) == (4, 4)
