"""What can be chosen: adapters, precision, checkpointing, offload, optimizers - each trains, resumes and exports."""

import dataclasses
import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from rank_jobs import go_on, losses, weights
from spawned import on_ranks
from training_parts import build_model, token_set
from transformers import AutoModelForCausalLM

from raypo.errors import MethodError, ModelError, StudyError
from raypo.training.model import DTYPES
from raypo.training.settings import EngineSetup, Lora, Optimisation, Run
from raypo.training.trainer import Trainer

SHORT = Run("epsilon_dpo", {"beta": 0.3}, Optimisation(lr=1e-3, batch_size=8, steps=4), seed=0)
LORA = Lora(rank=4, alpha=8)
CHOICES: dict[str, dict[str, Any]] = {
    "plain": {"zero_stage": 0},
    "plain lora": {"zero_stage": 0, "lora": LORA},
    "plain checkpointing": {"zero_stage": 0, "gradient_checkpointing": True},
    "plain rmsprop": {"zero_stage": 0, "optimizer": "rmsprop"},
    "plain adafactor": {"zero_stage": 0, "optimizer": "adafactor"},
    "zero2 lora": {"zero_stage": 2, "lora": LORA},
    "zero2 lora checkpointing": {"zero_stage": 2, "lora": LORA, "gradient_checkpointing": True},
    "zero3 lora": {"zero_stage": 3, "lora": LORA},
    "zero3 checkpointing": {"zero_stage": 3, "gradient_checkpointing": True},
    "zero1 bf16": {"zero_stage": 1, "dtype": "bf16"},
    "zero2 bf16": {"zero_stage": 2, "dtype": "bf16"},
    "zero3 bf16": {"zero_stage": 3, "dtype": "bf16"},
    "zero2 offload": {"zero_stage": 2, "offload": True},
    "zero3 offload": {"zero_stage": 3, "offload": True},
    "zero2 rmsprop": {"zero_stage": 2, "optimizer": "rmsprop"},
}


def try_choices(model: str) -> dict[str, dict[str, Any]]:
    """Each choice: losses cold and warm, whether a loaded checkpoint and an exported folder are the policy."""
    found = {}
    for name, choice in CHOICES.items():
        trainer, folder = Trainer(EngineSetup(model, micro_batch_size=4, **choice)), Path(tempfile.mkdtemp())
        cold = losses(trainer, SHORT)
        policy = weights(trainer)
        trainer.save(folder / "checkpoint")
        trainer.export(folder / "export")
        after = weights(trainer)
        exported = AutoModelForCausalLM.from_pretrained(folder / "export", dtype=DTYPES[trainer.setup.dtype])
        warm = losses(trainer, SHORT, until=2)
        trainer.begin(SHORT, token_set())
        trainer.load(folder / "checkpoint")
        loaded = weights(trainer)
        ids = torch.tensor([[1, 2, 3, 4]])
        with trainer.policy() as lm:
            logits = [m(ids).logits.float() for m in (lm, exported)]
        found[name] = {
            "cold": cold,
            "warm": warm + go_on_from(trainer, folder / "checkpoint"),
            "unharmed": torch.equal(policy, after),
            "loaded": torch.equal(policy, loaded),
            "exported": float((logits[0] - logits[1]).abs().max()),
            "long": on_long_rows(trainer),
        }
        trainer.close()
    return found


def on_long_rows(trainer: Trainer) -> dict[str, list[tuple[float, float]]]:
    """Losses on examples that are long enough to be joined where the engine can, and on the same ones that are not."""
    tokens, found = token_set(longest=200), {}
    for joins in (True, False):
        trainer.begin(SHORT, tokens)
        if not joins:
            trainer._longest_joined = 0
        found[trainer.layout(tokens).rows] = go_on(trainer)
    return found


def go_on_from(trainer: Trainer, folder: Path) -> list[tuple[float, float]]:
    """Nothing is left to do after the last checkpoint."""
    trainer.begin(SHORT, token_set())
    trainer.load(folder)
    return go_on(trainer)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return build_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def found(model) -> dict[str, dict[str, Any]]:
    return on_ranks(1, try_choices, model)[0]


@pytest.mark.parametrize("name", CHOICES)
def test_each_choice_trains_repeats_resumes_and_exports(found, name):
    got = found[name]
    assert got["cold"][0][0] == pytest.approx(math.log(2), abs=1e-6)  # policy == reference
    assert got["cold"][-1][0] != got["cold"][0][0]
    assert got["warm"] == got["cold"][:2]
    assert got["loaded"]
    assert got["unharmed"]  # exporting merges beside the weights, not in them
    assert got["exported"] < (1e-4 if "lora" in name else 1e-7)


@pytest.mark.parametrize(("one", "other"), [
    ("plain", "plain checkpointing"), ("plain", "zero3 checkpointing"), ("plain", "zero2 offload"),
    ("plain", "zero3 offload"), ("plain lora", "zero2 lora"), ("plain lora", "zero3 lora"),
    ("plain lora", "zero2 lora checkpointing"), ("plain rmsprop", "zero2 rmsprop"),
])  # fmt: skip
def test_choices_that_must_not_change_results_do_not(found, one, other):
    for a, b in zip(found[one]["cold"], found[other]["cold"], strict=True):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("name", CHOICES)
def test_joined_rows_train_as_rows_in_passes_of_one_width(found, name):
    got, bf16 = found[name]["long"], "bf16" in name
    if "zero3" in name:  # all ranks take equally many passes there
        assert got.keys() == {"padded"}
        return
    assert got.keys() == {"joined", "by_width"}
    steps = list(zip(got["joined"], got["by_width"], strict=True))
    for joined, apart in steps[:1] if bf16 else steps:  # what bf16 rounds off grows from step to step
        assert joined == pytest.approx(apart, rel=1e-3 if bf16 else 1e-4)


@pytest.mark.parametrize("stage", [1, 2])
def test_a_critic_trains_whatever_it_adds_to_the_number_of_parameters(model, stage):
    """Which its bias makes odd."""
    plain, found = on_ranks(1, with_critic, model, 0)[0], on_ranks(1, with_critic, model, stage)[0]
    assert found == pytest.approx(plain, rel=1e-3, abs=1e-4)


def with_critic(model: str, stage: int) -> list[float]:
    trainer = Trainer(EngineSetup(model, zero_stage=stage, micro_batch_size=4))
    run = Run("offline_ppo", {"advantage": "gae"}, Optimisation(lr=1e-3, batch_size=4, steps=3), seed=0)
    trainer.begin(run, token_set("unpaired"))
    assert sum(p.numel() for p in trainer.engine.policy.parameters()) % 2 == 1
    return [loss for loss, _ in go_on(trainer)]


def test_bf16_follows_fp32(found):
    for stage in (1, 2, 3):
        for (a, _), (b, _) in zip(found["plain"]["cold"], found[f"zero{stage} bf16"]["cold"], strict=True):
            assert a == pytest.approx(b, abs=0.03)


def test_optimizers_differ(found):
    finals = {found[f"plain{name}"]["cold"][-1] for name in ("", " rmsprop", " adafactor")}
    assert len(finals) == 3


@pytest.mark.parametrize(("changes", "message"), [
    ({"zero_stage": 0, "dtype": "bf16"}, "bf16 needs ZeRO stage 1, 2 or 3"),
    ({"zero_stage": 0, "offload": True}, "offload: needs ZeRO"),
    ({"zero_stage": 4}, "zero_stage: got 4; allowed 0, 1, 2, 3"),
    ({"zero_stage": 2, "optimizer": "adafactor"}, "adafactor factors whole matrices"),
    ({"micro_batch_size": 0}, "micro_batch_size: must be at least 1"),
])  # fmt: skip
def test_impossible_setups_are_refused(changes, message):
    with pytest.raises(StudyError, match=message):
        EngineSetup("anywhere", **changes)


def test_all_problems_of_an_optimisation_are_told_at_once():
    with pytest.raises(StudyError) as caught:
        Optimisation(lr=0, batch_size=0, warmup=1.5, schedule="wavy")  # type: ignore[arg-type]
    assert len(str(caught.value).splitlines()) == 5  # and that neither epochs nor steps is given


@pytest.mark.parametrize("targets", [("q_proj", "lm_head"), ("lm_head",)])
def test_an_adapter_on_the_head_is_refused(model, targets):
    with pytest.raises(ModelError, match="LM head"):
        Trainer(EngineSetup(model, zero_stage=0, lora=Lora(4, 8, targets)))


def test_an_adapter_folder_is_no_start_model(model, tmp_path):
    from peft import LoraConfig, get_peft_model

    get_peft_model(AutoModelForCausalLM.from_pretrained(model), LoraConfig(target_modules=["q_proj"])).save_pretrained(
        tmp_path
    )
    with pytest.raises(ModelError, match="cannot be its own reference"):
        Trainer(EngineSetup(str(tmp_path), zero_stage=0))


def test_a_moving_reference_of_adapters_is_refused(model):
    trainer = Trainer(EngineSetup(model, zero_stage=0, lora=LORA))
    with pytest.raises(MethodError, match="mean of two adapters"):
        trainer.begin(Run("tr_dpo", {"tau": 2}, SHORT.optimisation, 0), token_set())


def test_only_the_adapter_moves(model):
    """The reference of a trained adapter is still the start model, bit for bit."""
    trainer = Trainer(EngineSetup(model, zero_stage=0, lora=LORA))
    losses(trainer, SHORT)
    with_adapter, reference = trainer.sample_logps([([1, 2, 3], [4, 5, 6])])
    start = Trainer(EngineSetup(model, zero_stage=0)).sample_logps([([1, 2, 3], [4, 5, 6])])[0]
    assert reference[0].tolist() == start[0].tolist()
    assert with_adapter[0].tolist() != reference[0].tolist()


def test_data_of_the_wrong_kind_is_refused(model):
    trainer = Trainer(EngineSetup(model, zero_stage=0))
    with pytest.raises(MethodError, match="dpo: takes pairs data, got unpaired"):
        trainer.begin(dataclasses.replace(SHORT, method="dpo", hyperparameters={}), token_set("unpaired"))
    with pytest.raises(MethodError, match="embeddings"):
        trainer.begin(Run("rpo", {}, SHORT.optimisation, 0), token_set())
