"""Chunked log-probs: equal to full softmax in value and gradient, in memory that does not grow with T x V."""

import pytest
import torch
from live_memory import peak_bytes
from torch import nn

from raypo.training import logprobs
from raypo.training.logprobs import MIN_ROWS, HeadShape, chunks, logps_of_targets, scores_of_targets

FLOAT = 4
SHAPES = [HeadShape(), HeadShape(softcap=3.0), HeadShape(scale=0.25), HeadShape(scale=2.0, softcap=5.0)]


def full(hidden: torch.Tensor, head: nn.Linear, targets: torch.Tensor, shape: HeadShape) -> torch.Tensor:
    logits = head(hidden) * shape.scale
    if shape.softcap is not None:
        logits = shape.softcap * torch.tanh(logits / shape.softcap)
    return logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", [1, 7, 100])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_equal_a_full_softmax(shape, rows, bias, monkeypatch):
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", 50 * 40)
    torch.manual_seed(0)
    head = nn.Linear(8, 50, bias=bias).double()
    hidden = torch.randn(rows, 8, dtype=torch.float64, requires_grad=True)
    targets, weights = torch.randint(0, 50, (rows,)), torch.randn(rows, dtype=torch.float64)
    parameters = [hidden, *head.parameters()]
    ours, theirs = (f(hidden, head, targets, shape) for f in (logps_of_targets, full))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    got = torch.autograd.grad((ours * weights).sum(), parameters)
    want = torch.autograd.grad((theirs * weights).sum(), parameters)
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=0, atol=1e-12)


def test_bf16_log_probs_are_those_of_the_exact_product():
    """Logits are never rounded to bf16: a sum over 300 tokens is right to 1e-2 nats, where bf16 steps by 2."""
    torch.manual_seed(0)
    head = nn.Linear(64, 500, bias=False).bfloat16()
    hidden, targets = (3 * torch.randn(300, 64)).bfloat16(), torch.randint(0, 500, (300,))
    got = logps_of_targets(hidden, head, targets, HeadShape())
    exact = nn.Linear(64, 500, bias=False).double()
    exact.weight.data = head.weight.double()
    want = full(hidden.double(), exact, targets, HeadShape())
    assert got.dtype == torch.float32
    assert abs((got.double().sum() - want.sum()).item()) < 1e-2


def test_chunks_cover_all_rows_and_are_never_tiny(monkeypatch):
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", 64_000)
    for rows in (1, 31, 32, 33, 1000):
        slices = chunks(rows, vocabulary=1000)
        assert [i for s in slices for i in range(s.start, s.stop)] == list(range(rows))
        assert rows < MIN_ROWS or all(s.stop - s.start >= MIN_ROWS for s in slices)


def test_a_row_has_the_same_bits_whatever_its_company():
    torch.manual_seed(0)
    head, hidden = nn.Linear(32, 200, bias=False), torch.randn(500, 32)
    targets = torch.randint(0, 200, (500,))
    whole = logps_of_targets(hidden, head, targets, HeadShape())
    for part in (slice(0, 1), slice(3, 10), slice(100, 237), slice(499, 500)):
        assert torch.equal(logps_of_targets(hidden[part], head, targets[part], HeadShape()), whole[part])


def test_memory_does_not_grow_with_tokens_times_vocabulary(monkeypatch):
    """Forward and backward, in the allocator's own count: a few tiles of 64 tokens, however many tokens there are."""
    vocabulary, tile, kept = 1000, 64, 2
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", tile * vocabulary)
    monkeypatch.setattr(logprobs, "KEPT_ELEMENTS", kept * tile * vocabulary)
    head = nn.Linear(16, vocabulary, bias=False)

    def peak(tokens: int, function) -> int:
        hidden, targets = torch.randn(tokens, 16, requires_grad=True), torch.randint(0, vocabulary, (tokens,))

        def work():
            logps = function(hidden, head, targets, HeadShape())
            return torch.autograd.grad(logps.sum(), [hidden, head.weight])

        return peak_bytes(work)

    once, twice = peak(2048, logps_of_targets), peak(4096, logps_of_targets)
    assert twice - once <= 2048 * 4 * FLOAT, "a token costs its log-prob, mean logit, entropy and gradient"
    assert twice <= (4 + kept) * tile * vocabulary * FLOAT
    assert twice < 4096 * vocabulary * FLOAT / 10
    assert peak(4096, full) >= 2 * 4096 * vocabulary * FLOAT, "full logits and their gradient are seen"


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_kept_for_the_backward_pass_changes_no_bit(shape, monkeypatch):
    """And saves the second matrix product of what is kept, except under a cap."""
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", 97 * 40)
    torch.manual_seed(0)
    hidden, head = torch.randn(100, 12, requires_grad=True), nn.Linear(12, 97)
    targets, weights = torch.randint(0, 97, (100,)), torch.randn(100)
    products, logits_of = [], logprobs.logits_of

    def counted(*words):
        products.append(words)
        return logits_of(*words)

    monkeypatch.setattr(logprobs, "logits_of", counted)
    found, counts = [], []
    for kept in (0, 97 * 70, 97 * 100):
        monkeypatch.setattr(logprobs, "KEPT_ELEMENTS", kept)
        total = (logps_of_targets(hidden, head, targets, shape) * weights).sum()
        products.clear()
        found.append(torch.autograd.grad(total, [hidden, *head.parameters()], retain_graph=True))
        counts.append(len(products))
        found.append(torch.autograd.grad(total, [hidden, *head.parameters()]))
    for gradients in found[1:]:
        for gradient, first in zip(gradients, found[0], strict=True):
            assert torch.equal(gradient, first)
    assert counts == ([3, 1, 0] if shape.softcap is None else [3, 3, 3])


@pytest.mark.parametrize("shape", SHAPES)
def test_mean_logit_and_entropy_are_those_of_a_full_softmax(shape, monkeypatch):
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", 97 * 40)
    torch.manual_seed(0)
    hidden, head = torch.randn(100, 12, dtype=torch.float64, requires_grad=True), nn.Linear(12, 97, dtype=torch.float64)
    targets = torch.randint(0, 97, (100,))
    logps, spread = scores_of_targets(hidden, head, targets, shape)
    logits = head(hidden) * shape.scale
    logits = logits if shape.softcap is None else shape.softcap * torch.tanh(logits / shape.softcap)
    torch.testing.assert_close(spread[0], logits.mean(-1), rtol=0, atol=1e-12)
    torch.testing.assert_close(spread[1], torch.distributions.Categorical(logits=logits).entropy(), rtol=0, atol=1e-12)
    assert not spread.requires_grad
    frozen, nothing = scores_of_targets(hidden.detach(), head, targets, shape)
    assert nothing is None, "a model that does not train is not looked into"
    assert torch.equal(frozen, logps)


def test_excluded_tokens_have_no_part_in_the_entropy():
    hidden, head = torch.randn(20, 12, requires_grad=True), nn.Linear(12, 8)
    _, free = scores_of_targets(hidden, head, torch.zeros(20, dtype=torch.long), HeadShape())
    wider = nn.Linear(12, 9)
    wider.weight.data = torch.cat([head.weight.data, torch.zeros(1, 12)])
    wider.bias.data = torch.cat([head.bias.data, torch.tensor([-torch.inf])])
    _, barred = scores_of_targets(hidden, wider, torch.zeros(20, dtype=torch.long), HeadShape())
    torch.testing.assert_close(barred[1], free[1])
