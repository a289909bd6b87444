"""Whether a model can take a prompt and several completions as one row: found out by trying."""

from __future__ import annotations

import logging
from functools import lru_cache

import numpy as np
import torch

from raypo.data.tokens import TokenSet
from raypo.training.layout import MicroBatch
from raypo.training.model import Policy

log = logging.getLogger(__name__)
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-8, torch.bfloat16: 0.3}
"""Largest difference of a token's log-prob, in nats; a model that mixes completions up is off by far more."""


@torch.no_grad()
def shares_prefix(policy: Policy, device: torch.device) -> bool:
    """Compare both layouts on a made-up pair; says so when a model needs the padded one."""
    config = policy.plain.config
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        log.info("prompts are not shared: the model attends in a sliding window, which a shared row would not respect")
        return False
    tokens = _probe(config.vocab_size)
    values = []
    for shared in (True, False):
        batch = MicroBatch.of(tokens, np.arange(1), shared, one_pass=True)
        try:
            logps = policy(tuple(p.to(device) for p in batch.passes))[0]
        except (TypeError, ValueError, RuntimeError) as error:
            log.info("prompts are not shared: the model refuses the mask, %s", error)
            return False
        values.append(batch.spread(logps))
    off = float((values[0] - values[1]).abs().max())
    if not off <= TOLERANCE[policy.plain.dtype]:
        log.info("prompts are not shared: log-probs would change by up to %.3g nats", off)
        return False
    return True


@lru_cache(maxsize=8)
def _probe(vocabulary: int) -> TokenSet:
    """One pair: a prompt of 7 tokens, completions of 9 and 5."""
    draw = np.random.default_rng(0).integers(0, vocabulary, 7 + 9 + 5, dtype=np.int32)
    prompt, chosen, rejected = np.split(draw, [7, 16])
    ids = np.concatenate([prompt, chosen, prompt, rejected])
    mask = np.concatenate([np.arange(16) >= 7, np.arange(12) >= 7])
    one = np.zeros(1, np.int16)
    return TokenSet(
        kind="pairs",
        ids=ids,
        offsets=np.array([0, 16, 28]),
        prompt_lengths=np.array([7, 7], np.int32),
        mask=mask,
        unit=None,
        score=np.full(2, np.nan, np.float32),
        examples=np.array([[0, 1]], np.int32),
        record=one.astype(np.int32),
        stage=one,
    )
