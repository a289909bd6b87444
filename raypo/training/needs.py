"""What a method may ask of the trainer, by the name of its parameter: one table of providers.

`give` makes the real thing; `blank` has the same shape with zero log-probs, for the evaluation in which the trainer
learns the weights of a step's terms. `late` providers use the policy's own forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raypo.data.tokens import TokenSet
from raypo.errors import MethodError
from raypo.methods import Batch, Pairs, Ranked, Scores, Unpaired
from raypo.training import comm
from raypo.training.engine import Engine
from raypo.training.frozen import scored_rows
from raypo.training.layout import MicroBatch
from raypo.training.model import Forward, Head
from raypo.training.partition import NoLogPartition, Side, TiledLogPartition, token_kl
from raypo.training.reference import LiveCopy

Inputs = Pairs | Unpaired | Ranked | Scores
LIVE_REFERENCE = {"log_partition", "token_kl"}
"""Needs for which both LM heads have to be at hand; the store may have the reference's last hidden states."""


@dataclass
class Supply:
    """Everything providers draw on during one run."""

    tokens: TokenSet
    frozen: Mapping[str, np.ndarray]
    engine: Engine
    layout: Callable[[TokenSet, np.ndarray], MicroBatch]
    state: Any
    reference: LiveCopy | None = None
    reference_head: Head | None = None
    moving: LiveCopy | None = None
    mismatched: TokenSet | None = None
    batch_seed: int = 0
    training: bool = True
    real: bool = field(default=True)
    """Whether this rank's micro-batch counts, or only keeps the ranks in step."""

    @cached_property
    def scored_rows(self) -> np.ndarray:
        """int64 [total] row of a scored token among the stored hidden states."""
        return scored_rows(self.tokens)


@dataclass(frozen=True)
class Provider:
    """How one need is met."""

    give: Callable[[Supply, MicroBatch, Any], Any]
    blank: Callable[[Supply, MicroBatch], Any]
    late: bool = False


def shaped(tokens: TokenSet, batch: MicroBatch, logps: Tensor) -> Inputs:
    """Log-probs [N, T] as the type that the data's kind calls for."""
    device = logps.device
    mask = batch.mask.to(device)
    unit = torch.where(mask, 0, -1) if batch.unit is None else batch.unit.to(device)  # None: all have one turn
    score = torch.from_numpy(np.asarray(tokens.score)[batch.sequences]).to(device)
    if tokens.kind == "pairs":
        half = len(mask) // 2
        sides = [
            Scores(logps[part], mask[part], unit[part], score[part]) for part in (slice(0, half), slice(half, None))
        ]
        return Pairs(*sides)
    scores = Scores(logps, mask, unit, score)
    if tokens.kind == "unpaired":
        assert tokens.desirable is not None  # unpaired sets have it
        return Unpaired(scores, torch.from_numpy(np.asarray(tokens.desirable)[batch.sequences]).to(device))
    if tokens.kind == "ranked":
        return Ranked(scores, torch.from_numpy(batch.group.astype(np.int64)).to(device))
    return scores


def blank(s: Supply, batch: MicroBatch) -> Inputs:
    """Inputs of the right shape whose log-probs are all 0."""
    return shaped(s.tokens, batch, torch.zeros(batch.mask.shape, device=s.engine.device))


def reference_values(s: Supply, batch: MicroBatch) -> Tensor:
    """[S] reference log-probs: from the store where they are, else from the live copy."""
    if "reference" in s.frozen:
        values = np.asarray(s.frozen["reference"][batch.source], np.float32)
        return torch.from_numpy(values).to(s.engine.device)
    assert s.reference is not None  # the trainer makes one where the store has none
    return s.reference.forward(on(s, batch)).logps


def on(s: Supply, batch: MicroBatch) -> tuple[Any, ...]:
    return tuple(p.to(s.engine.device) for p in batch.passes)


def _reference(s: Supply, batch: MicroBatch, _: Any) -> Inputs:
    return shaped(s.tokens, batch, batch.spread(reference_values(s, batch)))


def _moving_reference(s: Supply, batch: MicroBatch, _: Any) -> Inputs:
    assert s.moving is not None  # the trainer makes one for methods that need it
    return shaped(s.tokens, batch, batch.spread(s.moving.forward(on(s, batch)).logps))


@torch.no_grad()
def _mismatched(s: Supply, batch: MicroBatch, _: Any) -> Tensor:
    assert s.mismatched is not None  # the trainer pairs prompts with others' answers at the start of a run
    other = s.layout(s.mismatched, batch.examples)
    policy = s.engine.forward(on(s, other)).logps
    if "mismatched" in s.frozen:
        frozen = torch.from_numpy(np.asarray(s.frozen["mismatched"][other.source], np.float32)).to(policy.device)
    else:
        assert s.reference is not None
        frozen = s.reference.forward(on(s, other)).logps
    u = other.spread(policy - frozen).sum(-1)
    return comm.gather_rows(u if s.real else u[:0])


def _log_partition(s: Supply, batch: MicroBatch, forward: Forward) -> TiledLogPartition:
    policy, reference = _sides(s, batch, forward)
    return TiledLogPartition(policy, reference, lambda values: _pairs(s, batch, values), s.engine.gathered)


def _sides(s: Supply, batch: MicroBatch, forward: Forward) -> tuple[Side, Side]:
    assert s.reference_head is not None  # the trainer has one for methods that need it
    policy, reference = s.engine.policy.head, s.reference_head
    hidden = _stored_hidden(s, batch) if "hidden" in s.frozen else _live_hidden(s, batch)
    return Side(forward.hidden, policy, policy.shape), Side(hidden, reference, reference.shape)


def _live_hidden(s: Supply, batch: MicroBatch) -> Tensor:
    assert s.reference is not None  # the trainer makes one where the store has none
    return s.reference.forward(on(s, batch)).hidden


def _stored_hidden(s: Supply, batch: MicroBatch) -> Tensor:
    rows = torch.from_numpy(s.frozen["hidden"][s.scored_rows[batch.source]])
    return (rows.view(torch.bfloat16) if rows.dtype == torch.int16 else rows).to(s.engine.device)


def _token_kl(s: Supply, batch: MicroBatch, forward: Forward) -> Tensor:
    return batch.spread(token_kl(*_sides(s, batch, forward)))


def _pairs(s: Supply, batch: MicroBatch, values: Tensor) -> Pairs:
    pairs = shaped(s.tokens, batch, batch.spread(values))
    if not isinstance(pairs, Pairs):
        raise MethodError(f"log_partition: is defined for pairs, got {s.tokens.kind} data")
    return pairs


def _no_log_partition(s: Supply, batch: MicroBatch) -> NoLogPartition:
    return NoLogPartition(_pairs(s, batch, torch.zeros(len(batch.source), device=s.engine.device)))


def _embeddings(s: Supply, batch: MicroBatch, _: Any = None) -> Tensor:
    return torch.from_numpy(np.asarray(s.frozen["embeddings"][batch.examples], np.float32)).to(s.engine.device)


def _value(_s: Supply, batch: MicroBatch, forward: Forward) -> Tensor:
    assert forward.value is not None  # the engine has a critic where the method needs one
    return batch.spread(forward.value)


def _zeros(s: Supply, batch: MicroBatch) -> Tensor:
    return torch.zeros(batch.mask.shape, device=s.engine.device)


def _prompt(_s: Supply, batch: MicroBatch, forward: Forward) -> Scores:
    logps = batch.spread_prompts(forward.logps)
    return Scores(logps, batch.prompt_mask.to(logps.device))


def _no_prompt(s: Supply, batch: MicroBatch) -> Scores:
    mask = batch.prompt_mask.to(s.engine.device)
    return Scores(torch.zeros(mask.shape, device=mask.device), mask)


def _batch(s: Supply, batch: MicroBatch, _: Any) -> Batch:
    counts = torch.zeros(comm.world(), dtype=torch.long, device=s.engine.device)
    counts[comm.rank()] = len(batch.examples) if s.real else 0
    offset = int(comm.total(counts)[: comm.rank()].sum())
    return Batch(lambda rows: comm.gather_rows(rows if s.real else rows[:0]), offset, s.batch_seed, s.training)


def _state(s: Supply, _batch: MicroBatch, _: Any = None) -> Any:
    return s.state


PROVIDERS: Mapping[str, Provider] = {
    "reference": Provider(_reference, blank),
    "moving_reference": Provider(_moving_reference, blank),
    "mismatched": Provider(_mismatched, lambda s, b: torch.zeros(len(b.examples), device=s.engine.device)),
    "log_partition": Provider(_log_partition, _no_log_partition, late=True),
    "token_kl": Provider(_token_kl, _zeros, late=True),
    "embeddings": Provider(_embeddings, _embeddings),
    "value": Provider(_value, _zeros, late=True),
    "prompt": Provider(_prompt, _no_prompt, late=True),
    "batch": Provider(_batch, lambda _s, _b: Batch()),
    "state": Provider(_state, _state),
}
