"""Other architectures: each is scored as its own logits say, and shares prompts or says why not."""

import logging

import numpy as np
import pytest
import torch
import transformers as hf
from training_parts import token_set

from raypo.errors import ModelError
from raypo.training.layout import Layout, MicroBatch
from raypo.training.settings import EngineSetup, Optimisation, Run
from raypo.training.trainer import Trainer

SMALL = {
    "vocab_size": 200, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "initializer_range": 0.2, "max_position_embeddings": 512,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
SHARING = {
    "llama": hf.LlamaConfig(**SMALL),
    "llama tied": hf.LlamaConfig(**SMALL, tie_word_embeddings=True),
    "mistral, sliding": hf.MistralConfig(**SMALL, sliding_window=64),
    "qwen2": hf.Qwen2Config(**SMALL),
    "qwen3": hf.Qwen3Config(**SMALL, head_dim=8),
    "gemma2, caps": hf.Gemma2Config(**SMALL, head_dim=8, sliding_window=64, final_logit_softcapping=5.0),
    "granite, scale": hf.GraniteConfig(**SMALL, logits_scaling=4.0),
    "phi3": hf.Phi3Config(**SMALL),
    "neox, head with bias": hf.GPTNeoXConfig(**{k: v for k, v in SMALL.items() if k != "num_key_value_heads"}),
    "falcon, its own attention": hf.FalconConfig(
        vocab_size=200, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, initializer_range=0.2, alibi=False
    ),
    "gpt2": hf.GPT2Config(vocab_size=200, n_embd=32, n_layer=2, n_head=4, initializer_range=0.2),
}
NOT_SHARING = {
    "bloom, distances by place": hf.BloomConfig(vocab_size=200, hidden_size=32, n_layer=2, n_head=4),
    "mamba, no attention": hf.MambaConfig(vocab_size=200, hidden_size=32, num_hidden_layers=2, state_size=4),
}  # fmt: skip


def trainer_for(config: hf.PretrainedConfig, folder) -> Trainer:
    torch.manual_seed(0)
    hf.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return Trainer(EngineSetup(str(folder), zero_stage=0, micro_batch_size=4))


def log_probs(trainer: Trainer, tokens, layout: Layout) -> torch.Tensor:
    batch = MicroBatch.of(tokens, np.arange(len(tokens)), layout)
    with torch.no_grad():
        return batch.spread(trainer.engine.forward(batch.passes).logps)


@pytest.mark.parametrize("name", SHARING)
def test_models_that_share_prompts_get_the_same_log_probs(name, tmp_path, monkeypatch):
    warned = []
    monkeypatch.setattr(hf.modeling_utils.logger, "warning", lambda text, *_: warned.append(text))
    trainer, tokens = trainer_for(SHARING[name], tmp_path), token_set(examples=6, longest=30)
    assert not [text for text in warned if "attention implementation" in text], "nobody asked for another one"
    assert trainer.layout(tokens).shared
    alone, shared = (log_probs(trainer, tokens, Layout(shared, "by_width")) for shared in (False, True))
    torch.testing.assert_close(shared, alone, rtol=0, atol=3e-5)


@pytest.mark.parametrize("name", NOT_SHARING)
def test_models_that_cannot_share_say_so_and_train(name, tmp_path, caplog):
    trainer, tokens = trainer_for(NOT_SHARING[name], tmp_path), token_set(examples=6, longest=30)
    with caplog.at_level(logging.WARNING):
        assert not trainer.layout(tokens).shared
        assert "prompts are not shared" in caplog.text
        caplog.clear()
        other = trainer_for(NOT_SHARING[name], tmp_path / "other")
        assert other.layout(token_set("unpaired", longest=300)) == Layout(False, "by_width")
    assert not caplog.text, "one completion a prompt shares nothing"
    trainer.begin(Run("dpo", {}, Optimisation(lr=1e-3, batch_size=6, steps=3), 0), tokens)
    seen = []
    trainer.train(3, seen.append)
    assert seen[0]["loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert seen[-1]["loss"] < seen[0]["loss"]


def test_sequences_longer_than_a_sliding_window_are_not_shared(tmp_path):
    trainer = trainer_for(SHARING["mistral, sliding"], tmp_path)
    assert trainer.layout(token_set(longest=30)).shared
    assert not trainer.layout(token_set(longest=90, seed=1)).shared


def test_a_head_that_does_something_unknown_is_refused(tmp_path, monkeypatch):
    from transformers.models.llama import modeling_llama

    whole = modeling_llama.LlamaForCausalLM.forward

    def doubled(self, *arguments, **named):
        out = whole(self, *arguments, **named)
        out.logits = 2 * out.logits
        return out

    monkeypatch.setattr(modeling_llama.LlamaForCausalLM, "forward", doubled)
    with pytest.raises(ModelError, match="its own logits give other log-probs"):
        trainer_for(SHARING["llama"], tmp_path)
