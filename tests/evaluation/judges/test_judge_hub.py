"""Judges that a study names by a hub id: found in the hub's cache, as the starting model is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from tiny_pairrm import save_pairrm
from transformers import LlamaConfig, LlamaForSequenceClassification

from raypo.artifacts import Store
from raypo.errors import ModelError
from raypo.evaluation.judges import Comparison, Judge
from raypo.search.judging import make_judge
from raypo.search.materials import Materials
from raypo.study import build

ITEMS = [Comparison("w1 ", "w2 w3", "w5")]


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the hub's cache keeps `org/judge`; the hub itself is out of reach."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    kept, revision = tmp_path / "hub" / "models--org--judge", "0123456789" * 4
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text(revision)
    return kept / "snapshots" / revision


def judge_of(folder: Path, **judge: Any) -> Judge:
    content = {
        "name": "hub",
        "model": {"path": "quickstart"},
        "data": {"source": "quickstart"},
        "methods": {"dpo": {"beta": 0.1}},
        "objective": {"judge": judge},
    }
    return make_judge(Materials(build(content, "hub"), Store(folder / "artifacts"), lambda _: None), "cpu", folder)


def save_reward_model(tiny: Any, folder: Path) -> None:
    torch.manual_seed(1)
    config = LlamaConfig(**tiny.model.config.to_dict() | {"num_labels": 1})
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)


def save_base(tiny: Any, folder: Path) -> None:
    tiny.model.save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(
    ("kind", "save", "more"),
    [
        ("reward_model", save_reward_model, {}),
        ("pairrm", lambda _, folder: save_pairrm(folder), {}),
        ("bradley_terry", save_base, {"source": "quickstart", "count": 40}),
    ],
)
def test_a_hub_id_is_a_judge(
    kind: str, save: Callable[..., None], more: dict[str, Any], tiny: Any, snapshot: Path, tmp_path: Path
) -> None:
    save(tiny, snapshot)
    named = judge_of(tmp_path, kind=kind, path="org/judge", **more)
    assert named.name.startswith(f"{kind}:")
    placed = judge_of(tmp_path, kind=kind, path=str(snapshot), **more)
    assert (named.name, named.judge(ITEMS)) == (placed.name, placed.judge(ITEMS))


@pytest.mark.usefixtures("snapshot")
@pytest.mark.parametrize(("path", "said"), [("org/another", "can be fetched"), (".", "no config.json")])
def test_what_is_no_model_is_told_with_the_judges_key(path: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=rf"^objective\.judge\.path: .*{said}"):
        judge_of(tmp_path, kind="reward_model", path=path)
