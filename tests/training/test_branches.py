"""Attention over joined rows: as under a mask, without the scores that a mask throws away."""

import pytest
import torch
from test_architectures import SHARING, log_probs, trainer_for
from torch.nn.functional import scaled_dot_product_attention
from training_parts import token_set

from raypo.training import branches
from raypo.training.branches import attention, parts_of
from raypo.training.layout import Layout

SPANS = [(7, 5, 9), (1, 1, 1), (12, 3), (4, 2, 6, 5)]
LENGTHS = [sum(spans) for spans in SPANS]


def states(dtype: torch.dtype) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(1, sum(LENGTHS), 3, 8, dtype=dtype).transpose(1, 2).requires_grad_() for _ in range(3)]


def mask() -> torch.Tensor:
    """[W, W] where a token may look, from its very definition."""
    owner = [
        (row, branch)
        for row, spans in enumerate(SPANS)
        for branch, n in enumerate(spans)  # 0 is the prompt
        for _ in range(n)
    ]
    allowed = torch.eye(len(owner), dtype=torch.bool)
    for place, (row, branch) in enumerate(owner):
        for seen in range(place):
            allowed[place, seen] = owner[seen] in ((row, 0), (row, branch))
    return allowed


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_values_and_gradients_are_those_under_a_mask(dtype, tolerance, scale):
    q, k, v = states(dtype)
    weights = torch.randn(q.shape, dtype=dtype)
    ours = attention(q, k, v, parts_of(SPANS, dtype), scale)
    theirs = scaled_dot_product_attention(q, k, v, attn_mask=mask(), scale=scale)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)
    got, want = (torch.autograd.grad((out * weights).sum(), [q, k, v]) for out in (ours, theirs))
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=0, atol=tolerance)


def test_a_row_has_the_same_bits_whatever_its_company():
    q, k, v = states(torch.float32)
    whole = attention(q, k, v, parts_of(SPANS, torch.float32)).split(LENGTHS, 2)
    apart = zip(*(x.split(LENGTHS, 2) for x in (q, k, v)), strict=True)
    for spans, row, joined in zip(SPANS, apart, whole, strict=True):
        assert torch.equal(attention(*row, parts_of([spans], torch.float32)), joined)


@pytest.mark.skipif(torch.cuda.is_available(), reason="for models on a CPU")
@pytest.mark.parametrize(
    "name",
    ["llama", "mistral, sliding", "qwen3", "gpt2", "neox, head with bias", "gemma2, caps", "falcon, its own attention"],
)
@pytest.mark.parametrize("shared", [True, False])
def test_long_rows_of_a_model_are_joined_and_score_as_rows_of_their_own(name, shared, tmp_path, monkeypatch):
    """In every layer; a model that caps its scores, or has an attention of its own, keeps its mask."""
    monkeypatch.setattr("raypo.training.trainer.JOINED_FROM", 10)
    trainer, tokens, taken = trainer_for(SHARING[name], tmp_path), token_set(examples=6, longest=30), []
    joins = name not in ("gemma2, caps", "falcon, its own attention")
    layout = trainer.layout(tokens if shared else token_set("completions", examples=6, longest=30))
    assert layout == Layout(shared, "joined" if joins else "by_width")

    def seen(*words):
        taken.append(words)
        return attention(*words)

    monkeypatch.setattr(branches, "attention", seen)
    found = log_probs(trainer, tokens, layout)
    assert len(taken) == (trainer.engine.policy.plain.config.num_hidden_layers if joins else 0)
    torch.testing.assert_close(found, log_probs(trainer, tokens, Layout(False, "by_width")), rtol=0, atol=3e-5)


def test_short_rows_and_those_beyond_a_window_are_not_joined(tmp_path):
    trainer = trainer_for(SHARING["mistral, sliding"], tmp_path)
    assert trainer.layout(token_set(longest=30)).rows == "by_width"
    assert trainer.layout(token_set("ranked", longest=30, group=9)).rows == "joined"
    assert trainer.layout(token_set("ranked", longest=90, group=9)).rows == "by_width"
