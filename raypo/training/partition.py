"""K(s) = log E_policy[(policy / reference)^s] and KL(policy || reference) of every scored token, chunk by chunk.

Both come from hidden states and the two LM heads, a chunk of tokens at a time, so memory does not grow with
tokens x vocabulary. Source: the closed form of epsilon-DPO (Lee et al. 2025).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from raypo.methods import Pairs
from raypo.training.logprobs import HeadShape, bent, chunks, logits_of, product


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


class _TokenKl(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, shape: HeadShape, other: Side) -> Tensor:
        ctx.save_for_backward(hidden, weight, bias)
        ctx.shape, ctx.other = shape, other
        parts = [_kl(chunk, hidden, weight, bias, ctx)[1] for chunk in chunks(len(hidden), weight.shape[0])]
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (hidden, weight, bias) = gradients, ctx.saved_tensors
        d_hidden = torch.empty_like(hidden)
        d_weight = torch.zeros_like(weight, dtype=gradient.dtype)
        d_bias = None if bias is None else torch.zeros_like(bias, dtype=gradient.dtype)
        for chunk in chunks(len(hidden), weight.shape[0]):
            # dKL / d logit_v = p_v (q_v - KL)
            (p, q, slope), kl = _kl(chunk, hidden, weight, bias, ctx)
            d = bent(p * (q - kl[:, None]) * gradient[chunk, None], slope)
            d_hidden[chunk] = product(d, weight, hidden.dtype)
            d_weight += product(d.T, hidden[chunk], d_weight.dtype)
            if d_bias is not None:
                d_bias += d.sum(0)
        return d_hidden, d_weight.to(weight.dtype), None if d_bias is None else d_bias.to(bias.dtype), None, None


def _kl(chunk: slice, hidden: Tensor, weight: Tensor, bias: Tensor | None, ctx: Any) -> tuple[Any, Tensor]:
    """((p, q, slope of the logits), KL) of a chunk of tokens."""
    logits = logits_of(hidden[chunk], weight, bias, ctx.shape)
    log_p, log_r = logits.log_softmax(-1), ctx.other.log_softmax(chunk)
    p = log_p.exp()
    q = torch.where(p > 0, log_p - log_r, 0.0)
    return (p, q, ctx.shape.slope(logits)), (p * q).sum(-1)


def token_kl(policy: Side, reference: Side) -> Tensor:
    """[S] KL(policy || reference), nats, with gradient to the policy's hidden states and head."""
    return _TokenKl.apply(policy.hidden, policy.head.weight, policy.head.bias, policy.shape, reference)


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
