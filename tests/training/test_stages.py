"""Plain PyTorch and ZeRO 1, 2, 3 on two ranks: the same training, warm as cold, resumed as in one go."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from rank_jobs import load_at_other_size, stage
from spawned import on_ranks
from training_parts import build_model, token_set
from transformers import AutoModelForCausalLM

from raypo.errors import StorageError
from raypo.training.settings import EngineSetup

STAGES = (0, 1, 2, 3)


@dataclasses.dataclass
class Found:
    """What two ranks found out about one stage, and where they left files."""

    setup: EngineSetup
    folder: Path
    ranks: list[dict[str, Any]]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return build_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def found(model, tmp_path_factory) -> dict[int, Found]:
    results = {}
    for number in STAGES:
        folder = tmp_path_factory.mktemp(f"stage{number}")
        setup = EngineSetup(model, zero_stage=number, micro_batch_size=2)
        results[number] = Found(setup, folder, on_ranks(2, stage, setup, str(folder)))
    return results


@pytest.mark.parametrize("number", STAGES)
def test_a_warm_run_repeats_the_cold_one_bit_for_bit(found, number):
    """After three other runs and a diverged one: same losses, same gradient norms, same weights."""
    for rank in found[number].ranks:
        assert rank["warm"] == rank["cold"]
        assert torch.equal(rank["warm_final"], rank["final"])


@pytest.mark.parametrize("number", STAGES)
def test_runs_learn_and_differ(found, number):
    rank = found[number].ranks[0]
    assert rank["cold"][0][0] == pytest.approx(math.log(2), abs=1e-6)
    assert rank["cold"][-1][0] < 0.9 * math.log(2)
    assert len({tuple(run) for run in [rank["cold"], *rank["others"]]}) == 4


def test_stages_agree(found):
    """Losses of 20 steps within 1e-4 of plain PyTorch's, and so are metrics and final weights."""
    plain = found[0].ranks[0]
    for number in (1, 2, 3):
        other = found[number].ranks[0]
        for a, b in zip(plain["cold"], other["cold"], strict=True):
            assert a == pytest.approx(b, rel=1e-3, abs=1e-4)
        assert max(abs(a[0] - b[0]) for a, b in zip(plain["cold"], other["cold"], strict=True)) < 1e-4
        assert float((plain["gradient"] - other["gradient"]).norm() / plain["gradient"].norm()) < 1e-5
        assert plain["metrics"] == pytest.approx(other["metrics"], rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("number", STAGES)
def test_ranks_agree(found, number):
    first, second = found[number].ranks
    assert first["cold"] == second["cold"]
    assert torch.equal(first["final"], second["final"])
    assert first["metrics"] == second["metrics"]


@pytest.mark.parametrize("number", STAGES)
@pytest.mark.parametrize("method", ["dpo", "epsilon_dpo", "simpo", "tr_dpo"])
def test_resuming_changes_no_bit(found, number, method):
    """Stopped and loaded into a fresh start at steps 2, 4, ...: weights, optimizer, schedule, beta, reference."""
    straight, pieces = found[number].ranks[0]["resumed"][method]
    assert len(pieces) >= 2
    assert pieces == straight


@pytest.mark.parametrize("number", STAGES)
def test_divergence_is_named(found, number):
    assert "dpo: " in found[number].ranks[0]["diverges"]
    assert "lower the learning rate" in found[number].ranks[0]["diverges"]


@pytest.mark.parametrize("number", STAGES)
def test_an_exported_folder_loads_anywhere(found, number):
    lm = AutoModelForCausalLM.from_pretrained(found[number].folder / "export")
    exported = torch.cat([p.detach().flatten() for p in lm.parameters()])
    assert torch.equal(exported, found[number].ranks[0]["exported"])


def test_sampled_log_probs_are_the_models_own(found, model):
    start = AutoModelForCausalLM.from_pretrained(model)
    for number in STAGES:
        *policy, long, short = found[number].ranks[0]["logps"]
        for prompt, answer, got in (([1, 2, 3], [4, 5, 6, 7], long), ([9], [8, 7], short)):
            ids = torch.tensor([prompt + answer])
            with torch.no_grad():
                own = start(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[len(prompt) - 1 :, 0]
            torch.testing.assert_close(torch.tensor(got), own, rtol=0, atol=1e-5)
        assert policy[0] != long


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_checkpoint_of_two_ranks_goes_on_with_one(found, number):
    """Through DeepSpeed's universal format: the same losses, up to the order of sums."""
    setup = found[number].setup
    (after,) = on_ranks(1, load_at_other_size, setup, str(found[number].folder))
    want = found[number].ranks[0]["after"]
    assert [x for x, _ in after] == pytest.approx([x for x, _ in want], abs=1e-6)


def test_a_checkpoint_of_another_stage_or_run_is_refused(found):
    from rank_jobs import DPO

    from raypo.training.trainer import Trainer

    trainer = Trainer(found[0].setup)
    trainer.begin(DPO, token_set())
    with pytest.raises(StorageError, match="zero_stage is 2; this one has 0"):
        trainer.load(found[2].folder / "three")
    with pytest.raises(StorageError, match="no checkpoint here"):
        trainer.load(found[2].folder / "nothing")
    trainer.begin(dataclasses.replace(DPO, seed=4), token_set())
    with pytest.raises(StorageError, match="seed is 3"):
        trainer.load(found[0].folder / "three")
