"""K(s) = log E_policy[(policy / reference)^s] and KL(policy || reference) of every scored token, chunk by chunk.

Both come from hidden states and the two LM heads, a chunk of tokens at a time, so memory does not grow with
tokens x vocabulary. Source: the closed form of epsilon-DPO (Lee et al. 2025).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from raypo.methods import Pairs
from raypo.training.logprobs import HeadShape, chunks, logits_of


@dataclass(frozen=True)
class Side:
    """One model's half: hidden states [S, D] that predict the scored tokens, and its LM head."""

    hidden: Tensor
    head: nn.Linear
    shape: HeadShape

    def log_softmax(self, chunk: slice) -> Tensor:
        return logits_of(self.hidden[chunk], self.head.weight, self.head.bias, self.shape).log_softmax(-1)


@torch.no_grad()
def statistics(policy: Side, reference: Side, strengths: tuple[float, ...]) -> tuple[list[Tensor], Tensor]:
    """(K [S] for each strength, KL [S]), nats; equal models give exactly 0."""
    rows, vocabulary = len(policy.hidden), policy.head.weight.shape[0]
    partitions, divergences = [], []
    for chunk in chunks(rows, vocabulary):
        log_p, log_r = policy.log_softmax(chunk), reference.log_softmax(chunk)
        p = log_p.exp()
        # Where the policy has no mass nothing is added, even if both models exclude the token and q is NaN.
        q = torch.where(p > 0, log_p - log_r, 0.0)
        divergences.append((p * q).sum(-1))
        partitions.append([torch.log1p((p * torch.expm1(s * q)).sum(-1)) for s in strengths])
    return [torch.cat(parts) for parts in zip(*partitions, strict=True)], torch.cat(divergences)


@dataclass(frozen=True)
class TiledLogPartition:
    """The log-partition a method asks for; `spread` shapes [S] values into Pairs."""

    policy: Side
    reference: Side
    spread: Callable[[Tensor], Pairs]
    gathered: Callable[[list[nn.Parameter]], AbstractContextManager[None]]
    """Context in which both heads are whole."""

    def __call__(self, *strengths: float) -> tuple[Pairs, ...]:
        return tuple(self.spread(k) for k in self._statistics(strengths)[0])

    def kl(self) -> Pairs:
        return self.spread(self._kl)

    @cached_property
    def _kl(self) -> Tensor:
        return self._statistics(())[1]

    def _statistics(self, strengths: tuple[float, ...]) -> tuple[list[Tensor], Tensor]:
        with self.gathered([*self.policy.head.parameters(), *self.reference.head.parameters()]):
            return statistics(self.policy, self.reference, strengths)


@dataclass(frozen=True)
class NoLogPartition:
    """Zeros in the right shape: what the trainer shows a method to learn the weights of its terms."""

    zeros: Pairs

    def __call__(self, *strengths: float) -> tuple[Pairs, ...]:
        return (self.zeros,) * len(strengths)

    def kl(self) -> Pairs:
        return self.zeros
