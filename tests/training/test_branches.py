"""Attention over shared rows: as under a mask, without the scores that a mask throws away."""

import numpy as np
import pytest
import torch
from test_architectures import SHARING, log_probs, trainer_for
from torch.nn.functional import scaled_dot_product_attention
from training_parts import token_set

from raypo.training import branches
from raypo.training.branches import attention, parts_of
from raypo.training.layout import MicroBatch

SPANS = [(7, 5, 9), (1, 1, 1), (12, 3), (4, 2, 6, 5)]
WIDTH = 32


def states(dtype: torch.dtype) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(len(SPANS), WIDTH, 3, 8, dtype=dtype).transpose(1, 2).requires_grad_() for _ in range(3)]


def mask_and_places() -> tuple[torch.Tensor, torch.Tensor]:
    """[R, 1, W, W] where a token may look, from its very definition, and [R, W] which places hold tokens."""
    mask = torch.eye(WIDTH, dtype=torch.bool).repeat(len(SPANS), 1, 1)
    filled = torch.zeros(len(SPANS), WIDTH, dtype=torch.bool)
    for r, (prompt, *completions) in enumerate(SPANS):
        branch = [0] * prompt + [b for b, n in enumerate(completions, 1) for _ in range(n)]
        filled[r, : len(branch)] = True
        for place, own in enumerate(branch):
            for seen in range(place):
                mask[r, place, seen] = branch[seen] in (0, own)
    return mask[:, None], filled


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_values_and_gradients_are_those_under_a_mask(dtype, tolerance, scale):
    q, k, v = states(dtype)
    mask, filled = mask_and_places()
    weights = torch.randn(q.shape, dtype=dtype) * filled[:, None, :, None]
    ours = attention(q, k, v, parts_of(SPANS, dtype), scale)
    theirs = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale) * filled[:, None, :, None]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)
    got, want = (torch.autograd.grad((out * weights).sum(), [q, k, v]) for out in (ours, theirs))
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=0, atol=tolerance)


def test_a_row_has_the_same_bits_whatever_its_company():
    q, k, v = states(torch.float32)
    whole = attention(q, k, v, parts_of(SPANS, torch.float32))
    for r, spans in enumerate(SPANS):
        alone = [x[r : r + 1] for x in (q, k, v)]
        assert torch.equal(attention(*alone, parts_of([spans], torch.float32)), whole[r : r + 1])


@pytest.mark.skipif(torch.cuda.is_available(), reason="for models on a CPU")
@pytest.mark.parametrize("name", ["llama", "mistral, sliding", "qwen3", "gpt2", "neox, head with bias", "gemma2, caps"])
def test_wide_shared_rows_of_a_model_take_it_in_every_layer(name, tmp_path, monkeypatch):
    """And score tokens as rows of their own do; a model that caps its scores keeps its mask."""
    trainer, tokens, taken = trainer_for(SHARING[name], tmp_path), token_set(examples=6, longest=30), []

    def seen(*words):
        taken.append(words)
        return attention(*words)

    monkeypatch.setattr(branches, "attention", seen)
    alone, narrow = (log_probs(trainer, tokens, shared) for shared in (False, True))
    assert not taken
    monkeypatch.setattr(branches, "FROM_WIDTH", 16)
    wide = log_probs(trainer, tokens, True)
    passes = len(MicroBatch.of(tokens, np.arange(len(tokens)), True, one_pass=False).passes)
    layers = trainer.engine.policy.plain.config.num_hidden_layers
    assert len(taken) == (0 if "caps" in name else layers * passes)
    torch.testing.assert_close(wide, alone, rtol=0, atol=3e-5)
    torch.testing.assert_close(wide, narrow, rtol=0, atol=3e-5)
