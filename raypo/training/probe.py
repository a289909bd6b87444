"""What a loaded model can do, found out by trying: score tokens as its own logits do, share a prompt in one row."""

from __future__ import annotations

import logging
import sys

import numpy as np
import torch
from torch import Tensor

from raypo.data.tokens import TokenSet
from raypo.errors import ModelError
from raypo.training import branches
from raypo.training.engine import Engine
from raypo.training.layout import Layout, MicroBatch

log = logging.getLogger(__name__)
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-8, torch.bfloat16: 0.3}
"""Largest difference of a token's log-prob, in nats; a model that is misread is off by far more."""
ALONE = Layout(False, "padded")


@torch.no_grad()
def check_head(engine: Engine) -> None:
    """Compare the log-probs of the chunked head with those of the model's own logits.

    Raises:
        ModelError: they differ; the model does something to its logits that raypo does not know.
    """
    tokens = _probe(engine)
    off = 0.0
    for n, row in enumerate(_log_probs(engine, tokens, ALONE)):
        ids = torch.from_numpy(tokens.sequence(n).astype(np.int64)).to(engine.device)
        logits = engine.policy.lm(ids[None], use_cache=False).logits[0, :-1].float()
        own = logits.log_softmax(-1).gather(1, ids[1:, None]).squeeze(1)[tokens.prompt_lengths[n] - 1 :]
        off = max(off, float((row[: len(own)] - own).abs().max()))
    if not off <= TOLERANCE[engine.policy.plain.dtype]:
        raise ModelError(
            f"model {engine.policy.plain.config.model_type}: its own logits give other log-probs than its LM head "
            f"alone, by up to {off:.3g} nats; architectures that change logits in unknown ways cannot be trained"
        )


@torch.no_grad()
def longest_shared(engine: Engine) -> int:
    """The longest sequence whose prompt may share a row, 0 for none: one row for a made-up pair against two.

    Says so when a model needs a row for every sequence. A shared row's mask replaces a sliding window, so sequences
    must fit into one.
    """
    tokens = _probe(engine)
    try:
        shared = _log_probs(engine, tokens, Layout(True, "padded"))
    except (TypeError, ValueError, RuntimeError) as error:
        log.warning("prompts are not shared: the model refuses the mask, %s", error)
        return 0
    off = float((shared - _log_probs(engine, tokens, ALONE)).abs().max())
    if not off <= TOLERANCE[engine.policy.plain.dtype]:
        log.warning("prompts are not shared: the model's log-probs would change by up to %.3g nats", off)
        return 0
    return _window(engine)


@torch.no_grad()
def longest_joined(engine: Engine) -> int:
    """The longest sequence whose row may lie behind others, 0 for none: where attention takes rows part by part."""
    if engine.policy.plain.config._attn_implementation != branches.NAME:
        return 0
    tokens = _probe(engine)
    try:
        joined = _log_probs(engine, tokens, Layout(False, "joined"))
    except (TypeError, ValueError, RuntimeError):
        return 0
    off = float((joined - _log_probs(engine, tokens, ALONE)).abs().max())
    return _window(engine) if off <= TOLERANCE[engine.policy.plain.dtype] else 0


def _window(engine: Engine) -> int:
    config = engine.policy.plain.config
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return window or sys.maxsize


def _log_probs(engine: Engine, tokens: TokenSet, layout: Layout) -> Tensor:
    batch = MicroBatch.of(tokens, np.arange(1), layout)
    return batch.spread(engine.forward(tuple(p.to(engine.device) for p in batch.passes)).logps)


def _probe(engine: Engine) -> TokenSet:
    """One pair: a prompt of 7 tokens, completions of 9 and 5."""
    vocabulary = engine.policy.plain.config.vocab_size
    draw = np.random.default_rng(0).integers(0, vocabulary, 7 + 9 + 5, dtype=np.int32)
    prompt, chosen, rejected = np.split(draw, [7, 16])
    return TokenSet(
        kind="pairs",
        ids=np.concatenate([prompt, chosen, prompt, rejected]),
        offsets=np.array([0, 16, 28]),
        prompt_lengths=np.array([7, 7], np.int32),
        mask=np.concatenate([np.arange(16) >= 7, np.arange(12) >= 7]),
        unit=None,
        score=np.full(2, np.nan, np.float32),
        examples=np.array([[0, 1]], np.int32),
        record=np.zeros(1, np.int32),
        stage=np.zeros(1, np.int16),
    )
