"""One configuration without a search: a run goes on from what it left itself, and from nothing else."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from small_bench import small_study

from raypo.errors import StorageError
from raypo.quickstart import task
from raypo.search import single
from raypo.search.jobs import Outcome
from raypo.search.searches import create
from raypo.search.single import train, train_reward_model
from raypo.study import Study
from raypo.training import comm


def study_of(storage: Path, beta: float = 0.1, **sections: Any) -> Study:
    return small_study(storage, methods={"dpo": {"beta": beta}}, **sections)


def trained(study: Study, name: str = "train") -> tuple[Outcome, Path, list[str]]:
    """(what came of a run, folder of its model, what was said)."""
    said: list[str] = []
    return *train(study, "dpo", name, said.append), said


def weights(model: Path) -> bytes:
    return (model / "model.safetensors").read_bytes()


def test_the_same_run_again_has_its_result(tmp_path: Path) -> None:
    first, model, said = trained(study_of(tmp_path))
    assert any(line.startswith("training") for line in said)
    again, same, said = trained(study_of(tmp_path, tracking={"project": "another"}))
    assert (asdict(again), same) == (asdict(first), model)
    assert not any(line.startswith("training") for line in said)
    assert "is trained and judged already" in said[-1]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A storage, and the folder of the model that was trained there."""
    storage = tmp_path_factory.mktemp("first")
    return storage, trained(study_of(storage))[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"beta": 0.9},
        {"training": {"lr": 1e-3}},
        {"objective": {"prompts": {"split": "eval", "count": 64}}},
        {"search": {"seed": 1}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_another_run_has_nothing_of_the_first(
    first: tuple[Path, Path], tmp_path: Path, changes: dict[str, Any]
) -> None:
    storage, before = first
    kept = weights(before)
    outcome, model, _ = trained(study_of(storage, **changes))
    calm, alone, _ = trained(study_of(tmp_path / "elsewhere", **changes))
    assert outcome.evaluation == calm.evaluation
    assert weights(model) == weights(alone)
    assert (before != model, weights(before)) == (True, kept), "what was trained first is still there"


def test_a_file_of_other_rows_is_another_run(tmp_path: Path) -> None:
    rows, models = tmp_path / "rows.jsonl", []
    for seed in (0, 1):
        rows.write_text("".join(json.dumps(row) + "\n" for row in task.pairs(64, seed, "train")))
        source = {"source": str(rows), "heldout": 0}
        prompts = {"prompts": {"source": "quickstart", "split": "eval", "count": 128}}
        models.append(trained(study_of(tmp_path, data=source, objective=prompts))[1])
    assert models[0] != models[1]
    assert weights(models[0]) != weights(models[1])


def test_lists_of_answers_are_trained_and_judged_from_end_to_end(tmp_path: Path) -> None:
    training = {"lr": 1e-3, "steps": None, "epochs": 2}
    lists = {"source": "quickstart", "format": "ranked", "heldout": 0}
    said: list[str] = []
    study = small_study(tmp_path, methods={"rank_dpo": {"beta": 0.3}}, data=lists, training=training)
    outcome, model = train(study, "rank_dpo", "train", said.append)
    assert "reference log-probs of 64 examples" in said
    assert (outcome.state, outcome.evaluation["n"]) == ("finished", 128)
    rows = [json.loads(line) for line in (model.parent / "metrics.jsonl").read_text().splitlines()]
    right = [row["rewards/accuracies"] for row in rows]
    assert len(right) == 16
    assert sum(right[8:]) > sum(right[:8]), "the same lists again, in the second epoch"


def test_a_folder_of_a_run_says_what_it_was_made_of(tmp_path: Path) -> None:
    _, model, _ = trained(study_of(tmp_path))
    told = json.loads((model.parent / "run.json").read_text())
    assert told["study"]["methods"]["dpo"]["beta"] == 0.1
    assert told["contents"].keys() == {"model", "data.source", "objective.prompts"}


class Interrupted(Exception):
    """Somebody pressed Ctrl-C."""


def test_an_interrupted_run_goes_on_and_another_one_begins_anew(tmp_path: Path) -> None:
    often = {"steps": 12, "checkpoint_every_s": 1e-6}

    def interrupt(line: str) -> None:
        if line.startswith("training 7"):
            raise Interrupted

    with pytest.raises(Interrupted):
        train(study_of(tmp_path, training=often), "dpo", "train", interrupt)
    _, other, said = trained(study_of(tmp_path, training={**often, "lr": 1e-3}))
    assert any(line.startswith("training 8%") for line in said)
    assert weights(other) == weights(trained(study_of(tmp_path / "calm", training={**often, "lr": 1e-3}))[1])
    _, model, said = trained(study_of(tmp_path, training=often))
    assert not any(line.startswith("training 8%") for line in said), "it goes on from a checkpoint"
    assert weights(model) == weights(trained(study_of(tmp_path / "calm", training=often))[1])


def test_in_an_object_store_the_model_is_here_wherever_it_was_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for machine in ("a", "b"):
        monkeypatch.setenv("RAYPO_CACHE", str(tmp_path / machine))
        found.append(trained(study_of(f"file://{tmp_path}/bucket")))  # type: ignore[arg-type]
    (first, model, _), (again, same, said) = found
    assert asdict(again) == asdict(first)
    assert not any(line.startswith("training") for line in said)
    assert (model.is_relative_to(tmp_path / "a"), same.is_relative_to(tmp_path / "b")) == (True, True)
    assert weights(model) == weights(same)


def test_a_reward_model_is_trained_where_a_policy_would_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(comm, "device", lambda: torch.device("cuda", 1))
    monkeypatch.setattr(single, "trained_reward_model", lambda _, device: asked.append(device) or tmp_path)
    judge = {"judge": {"kind": "bradley_terry", "source": "quickstart", "count": 64}}
    assert train_reward_model(study_of(tmp_path, objective=judge), print) == tmp_path
    assert asked == ["cuda:1"]


def test_the_name_of_a_search_is_refused(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    search = create(study, "taken")
    before = sorted(search.path.rglob("*"))
    with pytest.raises(StorageError, match=r"--name taken: there is a search of that name in .*; give another name"):
        trained(study, "taken")
    assert sorted(search.path.rglob("*")) == before
