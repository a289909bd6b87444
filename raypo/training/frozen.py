"""Log-probs and hidden states of a model that does not change: whole token sets for the store, or a few samples.

The layout is the training loop's own, so on a CPU cached values equal live ones bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from raypo.data.tokens import TokenSet
from raypo.training import comm
from raypo.training.layout import Layout, MicroBatch, Pass
from raypo.training.model import Forward

Call = Callable[[tuple[Pass, ...]], Forward]
"""A model's forward pass: an engine's, a live copy's, or a Policy's wrapped in Forward."""
Say = Callable[[int, int], None]
ROWS_REDUCED = 2**16
"""Hidden states that ranks exchange at once."""


def frozen_logps(
    call: Call,
    tokens: TokenSet,
    layout: Layout,
    examples_at_once: int,
    device: torch.device,
    say: Say = lambda _done, _all: None,
) -> np.ndarray:
    """float32 [total] log-probs (nats) aligned with `tokens.ids`, 0 off the mask; ranks share the work.

    `say(done, all)` is told the progress in examples. Every rank gets the whole result.
    """
    flat = torch.zeros(len(tokens.ids), device=device)
    for source, forward in _forwards(call, tokens, layout, examples_at_once, device, say):
        if len(source):
            flat[torch.from_numpy(source).to(device)] = forward.logps
    # Sequences that several examples share were written by several ranks: equal values, so the largest part wins.
    return _merge(flat).cpu().numpy()


def frozen_hidden(
    call: Call,
    tokens: TokenSet,
    layout: Layout,
    examples_at_once: int,
    device: torch.device,
    say: Say = lambda _done, _all: None,
) -> np.ndarray:
    """[scored tokens, D] hidden states that predict the tokens on the mask, in their order; bf16 as its int16 bits."""
    rows = scored_rows(tokens)
    flat = torch.empty(0)
    for source, forward in _forwards(call, tokens, layout, examples_at_once, device, say):
        if not len(flat):
            flat = torch.full((int(rows[-1]) + 1, forward.hidden.shape[1]), -math.inf, dtype=forward.hidden.dtype)
        if len(source):
            flat[torch.from_numpy(rows[source])] = forward.hidden.cpu()
    if comm.world() > 1:
        for part in flat.split(ROWS_REDUCED):
            whole = part.float().to(device)  # exact for bf16, and unwritten rows are -inf
            torch.distributed.all_reduce(whole, op=torch.distributed.ReduceOp.MAX)
            part.copy_(whole)
    return (flat.view(torch.int16) if flat.dtype == torch.bfloat16 else flat).numpy()


def scored_rows(tokens: TokenSet) -> np.ndarray:
    """int64 [total] row of `frozen_hidden` that belongs to a token on the mask."""
    return np.cumsum(tokens.mask) - 1


@torch.no_grad()
def _forwards(
    call: Call,
    tokens: TokenSet,
    layout: Layout,
    examples_at_once: int,
    device: torch.device,
    say: Say,
) -> Iterator[tuple[np.ndarray, Forward]]:
    """(places in `tokens.ids`, what the model says of them) of this rank's examples; ranks take equally many passes.

    A rank that has run out of examples gets no places.
    """
    order = np.argsort(-tokens.example_lengths(), kind="stable")
    mine = order[comm.rank() :: comm.world()]
    rounds = -(-len(order) // (examples_at_once * comm.world()))
    for i in range(rounds):
        examples = mine[i * examples_at_once : (i + 1) * examples_at_once]
        batch = MicroBatch.of(tokens, examples if len(examples) else order[-1:], layout)
        forward = call(tuple(p.to(device) for p in batch.passes))
        yield (batch.source if len(examples) else batch.source[:0]), forward
        say(min((i + 1) * examples_at_once * comm.world(), len(order)), len(order))


def _merge(flat: torch.Tensor) -> torch.Tensor:
    """Log-probs are at most 0 and unwritten places are 0, so the minimum over ranks is the value."""
    if comm.world() > 1:
        torch.distributed.all_reduce(flat, op=torch.distributed.ReduceOp.MIN)
    return flat


def sequence_logps(
    call: Call, answers: Sequence[tuple[Sequence[int], Sequence[int]]], at_once: int, device: torch.device
) -> list[np.ndarray]:
    """Log-probs [answer tokens] of each (prompt ids, answer ids) of this rank, one array an answer.

    Ranks take equally many forward passes, whatever they brought, for under ZeRO-3 each is a collective.
    """
    rounds = -(-int(_most(len(answers), device)) // at_once)
    found: list[np.ndarray] = []
    for i in range(rounds):
        part = answers[i * at_once : (i + 1) * at_once]
        found += _answers_logps(call, part or [([0], [0])], device)[: len(part)]
    return found


@torch.no_grad()
def _answers_logps(
    call: Call, answers: Sequence[tuple[Sequence[int], Sequence[int]]], device: torch.device
) -> list[np.ndarray]:
    tokens = _as_tokens(answers)
    batch = MicroBatch.of(tokens, np.arange(len(tokens)), Layout(False, "padded"))
    logps = batch.spread(call(tuple(p.to(device) for p in batch.passes)).logps).cpu().numpy()
    return [row[: len(answer)] for row, (_, answer) in zip(logps, answers, strict=True)]


def _as_tokens(answers: Sequence[tuple[Sequence[int], Sequence[int]]]) -> TokenSet:
    n = len(answers)
    lengths = np.array([[len(p), len(a)] for p, a in answers])
    return TokenSet(
        kind="completions",
        ids=np.concatenate([np.concatenate([p, a]) for p, a in answers]).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths.sum(1))]),
        prompt_lengths=lengths[:, 0].astype(np.int32),
        mask=np.concatenate([np.arange(p + a) >= p for p, a in lengths]),
        unit=None,
        score=np.full(n, np.nan, np.float32),
        examples=np.arange(n, dtype=np.int32)[:, None],
        record=np.arange(n, dtype=np.int32),
        stage=np.zeros(n, np.int16),
    )


def _most(n: int, device: torch.device) -> int:
    """The largest n of any rank."""
    value = torch.tensor(n, device=device)
    if comm.world() > 1:
        torch.distributed.all_reduce(value, op=torch.distributed.ReduceOp.MAX)
    return int(value)
