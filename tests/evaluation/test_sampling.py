import os
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from raypo.errors import Diverged, StudyError
from raypo.evaluation.prompts import end_of_turn
from raypo.evaluation.sampling import Completion, Sampling, draw, sample
from raypo.training.settings import EngineSetup, Lora
from raypo.training.trainer import Trainer

WORDS = [f"w{i}" for i in range(60)]


def prompts(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=rng.integers(1, 12))) for _ in range(count)]


SETTINGS = Sampling(temperature=0.8, top_p=0.95, max_new_tokens=16, seed=5)


def test_a_completion_depends_on_neither_batch_nor_neighbours_nor_place(tiny: Any) -> None:
    asked = prompts(24)
    together = sample(tiny.model, tiny.tokenizer, asked, SETTINGS)
    by_prompt = {c.prompt: c.tokens for c in together}
    alone = [sample(tiny.model, tiny.tokenizer, [prompt], SETTINGS)[0] for prompt in asked]
    assert [c.tokens for c in alone] == [c.tokens for c in together]
    shuffled = sample(tiny.model, tiny.tokenizer, asked[::-1], SETTINGS, batch_tokens=60)
    assert all(by_prompt[c.prompt] == c.tokens for c in shuffled)
    assert [c.prompt for c in shuffled] == asked[::-1]


@pytest.mark.parametrize("world_size", [2, 3, 40])
def test_ranks_share_the_prompts_and_change_nothing(tiny: Any, world_size: int) -> None:
    asked = prompts(10)
    whole = sample(tiny.model, tiny.tokenizer, asked, SETTINGS)
    parts = [sample(tiny.model, tiny.tokenizer, asked, SETTINGS, rank, world_size) for rank in range(world_size)]
    merged = sorted((c for part in parts for c in part), key=lambda c: c.index)
    assert merged == whole
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_seed_and_repetition_of_a_prompt_choose_the_answer(tiny: Any) -> None:
    twice = sample(tiny.model, tiny.tokenizer, ["w1 w2", "w1 w2"], SETTINGS)
    assert twice[0].tokens != twice[1].tokens
    other = sample(tiny.model, tiny.tokenizer, ["w1 w2"], Sampling(0.8, 0.95, 16, seed=6))
    assert other[0].tokens != twice[0].tokens


def test_greedy_decoding_equals_generate_of_transformers(tiny: Any) -> None:
    """The same tokens as an independent loop, with left padding, positions and cache of its own.

    A GPT-2 has learned positions, which padding must not shift; rotary ones would not notice.
    """
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tiny.tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=64, eos_token_id=0)
    learned = GPT2LMHeadModel(GPT2Config(**config.to_dict() | {"initializer_range": 0.5})).eval()
    for model in (tiny.model, learned):
        for completion in sample(model, tiny.tokenizer, prompts(8), Sampling(temperature=0, max_new_tokens=12)):
            ids = torch.tensor([completion.prompt_tokens])
            theirs = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
            assert tuple(theirs[0, ids.shape[1] :].tolist()) == completion.tokens


def test_an_adapted_policy_with_learned_positions_answers_a_batch_as_one_prompt_alone(
    tiny: Any, tmp_path: Path
) -> None:
    """Under padding of its own, with the adapter at work, and with the logits of one token only."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tiny.tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=0, eos_token_id=0
    )
    config.initializer_range = 0.5
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    trainer, widths = Trainer(EngineSetup(str(tmp_path), zero_stage=0, lora=Lora(rank=4))), []
    with trainer.policy() as model:
        start = sample(model, tiny.tokenizer, prompts(8), SETTINGS)
        for p in trainer.engine.trainable:  # type: ignore[attr-defined]
            torch.nn.init.normal_(p, std=0.5)
        model.get_output_embeddings().register_forward_pre_hook(lambda _, x: widths.append(x[0].shape[1]))
        together = sample(model, tiny.tokenizer, prompts(8), SETTINGS)
        alone = [sample(model, tiny.tokenizer, [prompt], SETTINGS)[0] for prompt in prompts(8)]
    assert [c.tokens for c in together] == [c.tokens for c in alone]
    assert [c.tokens for c in together] != [c.tokens for c in start]
    assert set(widths) == {1}


def test_answers_stop_at_the_end_of_turn_and_say_when_they_were_cut(tiny: Any) -> None:
    found = sample(tiny.model, tiny.tokenizer, prompts(60), Sampling(max_new_tokens=20))
    stopped = [c for c in found if not c.truncated]
    assert stopped
    assert len(stopped) < len(found)
    assert all(c.tokens[-1] == 0 and 0 not in c.tokens[:-1] and "<end>" not in c.text for c in stopped)
    assert all(len(c.tokens) == 20 and 0 not in c.tokens for c in found if c.truncated)


def test_draws_follow_the_distribution() -> None:
    """Evenly spaced numbers meet every token in proportion to softmax(logits / temperature), to the last of 20,000."""
    logits = torch.tensor([2.0, 0.0, 1.0, -1.0, 0.5])
    uniform = torch.linspace(0, 1, 20001, dtype=torch.float64)[:-1]
    tokens = draw(logits.expand(20000, 5), uniform, temperature=0.7, top_p=1.0)
    expected = torch.softmax(logits / 0.7, 0).numpy() * 20000
    assert np.abs(np.bincount(tokens, minlength=5) - expected).max() < 1
    nucleus = draw(logits.expand(20000, 5), uniform, temperature=0.7, top_p=0.85)
    # At 0.7 the probabilities are .72 .04 .17 .01 .08: the first two in order make .89.
    assert set(nucleus.tolist()) == {0, 2}
    share = float((nucleus == 0).float().mean())
    assert share == pytest.approx(expected[0] / (expected[0] + expected[2]), abs=1e-3)


def test_the_nucleus_always_holds_the_likeliest_token() -> None:
    logits = torch.tensor([[0.0, 5.0, 1.0]])
    assert draw(logits, torch.tensor([0.999], dtype=torch.float64), 1.0, 1e-6).tolist() == [1]
    assert draw(logits, torch.tensor([0.999], dtype=torch.float64), 0.0, 1.0).tolist() == [1]


@pytest.mark.parametrize(("cut", "left"), [("prompt_start", "w3 w4"), ("prompt_end", "w1 w2")])
def test_long_prompts_lose_the_side_that_training_cuts(tiny: Any, cut: Any, left: str) -> None:
    settings = Sampling(0.8, 0.95, 16, 5, max_prompt_tokens=2, cut=cut)
    found = sample(tiny.model, tiny.tokenizer, ["w1 w2 w3 w4"], settings)[0]
    assert found.prompt_tokens == sample(tiny.model, tiny.tokenizer, [left], SETTINGS)[0].prompt_tokens


def test_a_model_in_training_samples_without_dropout_and_stays_in_training(tiny: Any) -> None:
    config = LlamaConfig(**{**tiny.model.config.to_dict(), "attention_dropout": 0.5})
    model = LlamaForCausalLM(config)
    model.load_state_dict(tiny.model.state_dict())
    model.train()
    found = sample(model, tiny.tokenizer, prompts(4), SETTINGS)
    assert model.training
    assert found == sample(tiny.model, tiny.tokenizer, prompts(4), SETTINGS)


TEMPLATE = (
    "{% for m in messages %}{{ m.role }} {{ m.content }} {% if m.role == 'assistant' %}<turn> {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


def test_conversations_go_through_the_template_and_stop_where_it_ends_a_turn(tiny: Any) -> None:
    tokenizer = deepcopy(tiny.tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    tokenizer.chat_template = TEMPLATE
    assert end_of_turn(tiny.model, tokenizer) == {0, 2}
    assert end_of_turn(tiny.model, tiny.tokenizer) == {0}
    tokenizer.chat_template = None
    assert end_of_turn(tiny.model, tokenizer, TEMPLATE) == {0, 2}, "a study's own template ends turns as well"
    tokenizer.chat_template = TEMPLATE
    conversation = ({"role": "user", "content": "w1 w2"},)
    found = sample(tiny.model, tokenizer, [conversation] * 40, Sampling(max_new_tokens=30))
    assert len(found[0].prompt_tokens) == 4
    assert {c.tokens[-1] for c in found if not c.truncated} == {0, 2}


@pytest.mark.parametrize("lost", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_model_whose_weights_are_lost_has_diverged(tiny: Any, lost: float, temperature: float) -> None:
    """Nothing is drawn from what is no number, whatever the place of a token in the vocabulary."""
    model = deepcopy(tiny.model)
    model.lm_head.weight.data[-1] = lost
    settings = Sampling(temperature, 0.95, 8, seed=5)
    with pytest.raises(Diverged, match=r"logits are no numbers.*lower the learning rate"):
        sample(model, tiny.tokenizer, prompts(6), settings)
    model.lm_head.weight.data[-1] = 0.0
    hook = model.lm_head.register_forward_hook(lambda *words: words[2].index_fill(-1, torch.tensor([1]), -torch.inf))
    assert len(sample(model, tiny.tokenizer, prompts(6), settings)) == 6, "what never comes up may be ruled out"
    hook.remove()


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(StudyError, match="top_p"):
        Sampling(top_p=0)
    with pytest.raises(StudyError, match="max_new_tokens"):
        Sampling(max_new_tokens=0)


ALONE = Sampling(max_new_tokens=30)


def _lockstep(rank: int, folder: str, model: Any, tokenizer: Any) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    calls = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    mine = sample(model, tokenizer, prompts(21), ALONE, rank, 2, lockstep=True, batch_tokens=1)
    torch.save((mine, len(calls)), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_ranks_in_lockstep_run_the_model_equally_often(tiny: Any, tmp_path: Path) -> None:
    """One prompt a batch: a rank goes on until the other one's answer has ended too."""
    mp.start_processes(_lockstep, (str(tmp_path), tiny.model, tiny.tokenizer), nprocs=2, start_method="fork")
    (first, calls), (second, other_calls) = (torch.load(tmp_path / f"{r}.pt", weights_only=False) for r in range(2))
    assert calls == other_calls > max(sum(len(c.tokens) for c in part) for part in (first, second))
    found: list[Completion] = sorted(first + second, key=lambda c: c.index)
    assert found == sample(tiny.model, tiny.tokenizer, prompts(21), ALONE)


def _broken(rank: int, folder: str, model: Any, tokenizer: Any) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    if rank == 1:
        model.lm_head.weight.data[:] = float("nan")
    try:
        sample(model, tokenizer, prompts(5), ALONE, rank, 2)
    except Diverged as error:
        Path(f"{folder}/{rank}").write_text(str(error))
    torch.distributed.destroy_process_group()


def test_ranks_diverge_together(tiny: Any, tmp_path: Path) -> None:
    mp.start_processes(_broken, (str(tmp_path), tiny.model, tiny.tokenizer), nprocs=2, start_method="fork")
    first, second = ((tmp_path / rank).read_text() for rank in "01")
    assert first == second


def _partitioned(rank: int, folder: str, model: Any, tokenizer: Any) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "DS_ACCELERATOR": "cpu"}
    import deepspeed

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
        "optimizer": {"type": "Adam", "params": {"lr": 1e-3, "torch_adam": True}},
    }
    engine, *_ = deepspeed.initialize(model=model, config=config)
    mine = sample(engine.module, tokenizer, prompts(7), SETTINGS, rank, 2, lockstep=True, batch_tokens=90)
    torch.save((mine, next(model.parameters()).numel()), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_partitioned_weights_sample_the_same(tiny: Any, tmp_path: Path) -> None:
    """A real DeepSpeed engine at ZeRO 3 on two ranks."""
    mp.start_processes(_partitioned, (str(tmp_path), tiny.model, tiny.tokenizer), nprocs=2, start_method="fork")
    (first, held), (second, _) = (torch.load(tmp_path / f"{r}.pt", weights_only=False) for r in range(2))
    assert held == 0
    found: list[Completion] = sorted(first + second, key=lambda c: c.index)
    assert found == sample(tiny.model, tiny.tokenizer, prompts(7), SETTINGS)
