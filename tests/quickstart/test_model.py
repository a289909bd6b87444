from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from raypo.quickstart import model, task
from raypo.quickstart.vocabulary import words


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    model.build(folder)
    return folder


def test_the_folder_loads_without_a_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    network = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert 0.3e6 < sum(parameter.numel() for parameter in network.parameters()) < 1e6
    assert network.config.vocab_size == len(tokenizer) == len(words()) + 3
    assert (
        network.config.eos_token_id == tokenizer.eos_token_id != tokenizer.pad_token_id == network.config.pad_token_id
    )


def test_equal_seeds_give_equal_bytes_and_leave_the_generator_alone(folder: Path, tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    model.build(tmp_path / "same")
    model.build(tmp_path / "other", seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    for file in sorted(path.name for path in folder.iterdir()):
        assert (tmp_path / "same" / file).read_bytes() == (folder / file).read_bytes()
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != (folder / "model.safetensors").read_bytes()


def test_prompts_and_answers_go_through_the_tokenizer_unharmed(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for row in task.pairs(500, seed=0):
        prompt, answer = tokenizer(row["prompt"]).input_ids, tokenizer(row["chosen"]).input_ids
        assert tokenizer(row["prompt"] + row["chosen"]).input_ids == prompt + answer
        assert tokenizer.unk_token_id not in prompt + answer
        assert tokenizer.decode([*answer, tokenizer.eos_token_id], skip_special_tokens=True) == row["chosen"]
        assert len(prompt) + len(answer) < model.LONGEST
