"""K(s) and KL from hidden states: equal to full softmaxes in fp64, exactly 0 for equal models, in bounded memory."""

import math
from contextlib import nullcontext

import pytest
import torch
from live_memory import peak_bytes
from torch import nn

from raypo.methods import FullLogPartition, Pairs
from raypo.training import logprobs
from raypo.training.logprobs import HeadShape
from raypo.training.partition import Side, TiledLogPartition, statistics, token_kl

FLOAT = 4


def sides(rows: int = 300, vocabulary: int = 97, dtype: torch.dtype = torch.float64) -> tuple[Side, Side]:
    torch.manual_seed(0)
    made = []
    for _ in range(2):
        head = nn.Linear(12, vocabulary, dtype=dtype)
        made.append(Side(torch.randn(rows, 12, dtype=dtype), head, HeadShape()))
    return made[0], made[1]


def test_equals_three_full_softmaxes(monkeypatch):
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", 97 * 40)
    policy, reference = sides()
    f, f_ref = (side.head(side.hidden) for side in (policy, reference))
    log_p, q = f.log_softmax(-1), f.log_softmax(-1) - f_ref.log_softmax(-1)
    strengths = (0.01, -0.01, 0.5)
    partitions, kl = statistics(policy, reference, strengths)
    for s, k in zip(strengths, partitions, strict=True):
        # log pi_lambda(y) - log pi(y) = s q_y - K(s), pi_lambda = softmax((1 + s) f - s f_ref), for every y.
        perturbed = ((1 + s) * f - s * f_ref).log_softmax(-1)
        torch.testing.assert_close(k, (s * q - (perturbed - log_p))[:, 0], rtol=0, atol=1e-10)
    torch.testing.assert_close(kl, (log_p.exp() * q).sum(-1), rtol=0, atol=1e-10)


def test_agrees_with_the_form_for_notebooks():
    policy, reference = sides(rows=24)
    f, f_ref = (side.head(side.hidden).view(4, 6, -1) for side in (policy, reference))
    masks = torch.ones(2, 6, dtype=torch.bool), torch.ones(2, 6, dtype=torch.bool)
    whole = FullLogPartition.of(f[:2], f[2:], f_ref[:2], f_ref[2:], *masks)

    def spread(values: torch.Tensor) -> Pairs:
        chosen, rejected = values.view(4, 6).split(2)
        return Pairs.of(chosen, rejected, *masks)

    tiled = TiledLogPartition(policy, reference, spread, lambda _: nullcontext())
    for ours, theirs in zip(tiled(0.3, -0.3), whole(0.3, -0.3), strict=True):
        torch.testing.assert_close(ours.chosen.logps, theirs.chosen.logps, rtol=0, atol=1e-12)
        torch.testing.assert_close(ours.rejected.logps, theirs.rejected.logps, rtol=0, atol=1e-12)
    torch.testing.assert_close(tiled.kl().rejected.logps, whole.kl().rejected.logps, rtol=0, atol=1e-12)


def test_equal_models_give_exactly_zero():
    policy, _ = sides(dtype=torch.float32)
    partitions, kl = statistics(policy, policy, (0.01, -0.01))
    assert all(bool((k == 0).all()) for k in [*partitions, kl])


def test_tokens_that_both_models_exclude_add_nothing():
    policy, reference = sides(rows=20)
    free = statistics(Side(policy.hidden, _without_last(policy.head), HeadShape()),
                      Side(reference.hidden, _without_last(reference.head), HeadShape()), (0.1,))  # fmt: skip
    for side in (policy, reference):
        side.head.weight.data[-1], side.head.bias.data[-1] = 0, -math.inf
    barred = statistics(policy, reference, (0.1,))
    torch.testing.assert_close(barred[0][0], free[0][0], rtol=0, atol=1e-12)
    torch.testing.assert_close(barred[1], free[1], rtol=0, atol=1e-12)


def _without_last(head: nn.Linear) -> nn.Linear:
    shorter = nn.Linear(head.in_features, head.out_features - 1, dtype=head.weight.dtype)
    shorter.weight.data, shorter.bias.data = head.weight.data[:-1].clone(), head.bias.data[:-1].clone()
    return shorter


@pytest.mark.parametrize("what", ["statistics", "token_kl"])
def test_memory_does_not_grow_with_tokens_times_vocabulary(monkeypatch, what):
    """In the allocator's own count, and for the exact KL with its backward pass: a few tiles of 64 tokens."""
    vocabulary, tile = 1000, 64
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", tile * vocabulary)

    def peak(tokens: int) -> int:
        policy, reference = sides(tokens, vocabulary, torch.float32)
        policy.hidden.requires_grad_()

        def log_partition():
            partitions, kl = statistics(policy, reference, (0.01, -0.01))
            return [*partitions, kl]

        def exact_kl():
            parameters = [policy.hidden, *policy.head.parameters()]
            return torch.autograd.grad(token_kl(policy, reference).sum(), parameters)

        return peak_bytes(log_partition if what == "statistics" else exact_kl)

    once, twice = peak(2048), peak(4096)
    assert twice - once <= 2048 * FLOAT, "the tiles and little else"
    assert twice <= 10 * tile * vocabulary * FLOAT, "logits, log-probs and probabilities of two models, and products"
    assert twice < 4096 * vocabulary * FLOAT / 6


def test_exact_kl_has_the_gradient_of_a_full_softmax(monkeypatch):
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", 97 * 40)
    for shape in (HeadShape(), HeadShape(scale=0.5, softcap=2.0)):
        policy, reference = sides()
        policy = Side(policy.hidden.requires_grad_(), policy.head, shape)
        reference = Side(reference.hidden, reference.head, shape)
        weights = torch.randn(300, dtype=torch.float64)
        f, f_ref = (_shaped(side.head(side.hidden), shape) for side in (policy, reference))
        log_p, log_r = f.log_softmax(-1), f_ref.log_softmax(-1).detach()
        want_kl = (log_p.exp() * (log_p - log_r)).sum(-1)
        got_kl = token_kl(policy, reference)
        torch.testing.assert_close(got_kl, want_kl, rtol=0, atol=1e-12)
        parameters = [policy.hidden, policy.head.weight, policy.head.bias]
        got = torch.autograd.grad((got_kl * weights).sum(), parameters)
        want = torch.autograd.grad((want_kl * weights).sum(), parameters)
        for g, w in zip(got, want, strict=True):
            torch.testing.assert_close(g, w, rtol=0, atol=1e-11)


def _shaped(logits: torch.Tensor, shape: HeadShape) -> torch.Tensor:
    logits = logits * shape.scale
    return logits if shape.softcap is None else shape.softcap * torch.tanh(logits / shape.softcap)
