"""What a loss sees: token log-probabilities of sets of completions, and what it gives back.

Shapes: N completions, B pairs, T tokens (padded). Log-probs are fp32 (or fp64 in tests), 0 off the mask.
Everything is made from plain tensors, so a loss runs in a notebook without a model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scores:
    """Token log-probs of N completions.

    logps [N, T] float, nats, 0 off the mask; mask [N, T] bool; unit [N, T] int (turn, step or segment, -1 = none);
    score [N] float (reward, rank score or label of a completion).
    """

    logps: Tensor
    mask: Tensor
    unit: Tensor | None = None
    score: Tensor | None = None

    @classmethod
    def of(
        cls, logps: Tensor, mask: Tensor | None = None, unit: Tensor | None = None, score: Tensor | None = None
    ) -> Scores:
        """Scores from raw token log-probs; what lies off the mask is set to exactly 0. No mask: all tokens count."""
        mask = torch.ones_like(logps, dtype=torch.bool) if mask is None else mask.bool()
        return cls(torch.where(mask, logps, torch.zeros_like(logps)), mask, unit, score)

    @property
    def lengths(self) -> Tensor:
        """[N] number of completion tokens, at least 1 so that it may divide."""
        return self.mask.sum(-1).clamp(min=1)

    def sum(self) -> Tensor:
        """[N] sequence log-prob S(y)."""
        return self.logps.sum(-1)

    def mean(self) -> Tensor:
        """[N] length-normalised log-prob A(y) = S(y) / |y|."""
        return self.sum() / self.lengths

    def detach(self) -> Scores:
        return replace(self, logps=self.logps.detach())

    def __len__(self) -> int:
        return self.logps.shape[0]


@dataclass(frozen=True)
class Pairs:
    """Chosen and rejected completions of B prompts, aligned by row."""

    chosen: Scores
    rejected: Scores

    @classmethod
    def of(
        cls,
        chosen_logps: Tensor,
        rejected_logps: Tensor,
        chosen_mask: Tensor | None = None,
        rejected_mask: Tensor | None = None,
    ) -> Pairs:
        """Pairs from token log-probs [B, T]; the two sides may be padded to different T."""
        return cls(Scores.of(chosen_logps, chosen_mask), Scores.of(rejected_logps, rejected_mask))

    def margin(self) -> Tensor:
        """[B] S(chosen) - S(rejected), nats."""
        return self.chosen.sum() - self.rejected.sum()

    def mean_margin(self) -> Tensor:
        """[B] A(chosen) - A(rejected), nats per token."""
        return self.chosen.mean() - self.rejected.mean()

    def __len__(self) -> int:
        return len(self.chosen)


@dataclass(frozen=True)
class Unpaired:
    """Completions with a thumbs-up or thumbs-down: desirable [N] bool."""

    scores: Scores
    desirable: Tensor

    @classmethod
    def of(cls, logps: Tensor, mask: Tensor | None, desirable: Tensor) -> Unpaired:
        return cls(Scores.of(logps, mask), desirable.bool())

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class Ranked:
    """K >= 2 scored completions per prompt, flat: group [N] int says which prompt; scores.score [N] says how good."""

    scores: Scores
    group: Tensor

    @classmethod
    def of(cls, logps: Tensor, mask: Tensor | None, group: Tensor, score: Tensor) -> Ranked:
        return cls(Scores.of(logps, mask, score=score), group)

    def __len__(self) -> int:
        return len(self.scores)


class LogPartition(Protocol):
    """log E_policy[(policy/reference)^s] of every completion token: K(s) of epsilon-DPO, in closed form."""

    def __call__(self, *strengths: float) -> tuple[Pairs, ...]:
        """K(s) per token for each strength s, as Pairs of [B, T]; no gradient."""
        ...

    def kl(self) -> Pairs:
        """KL(policy || reference) per token, as Pairs of [B, T]; no gradient."""
        ...


@dataclass(frozen=True)
class Batch:
    """The micro-batch over all ranks, for methods that are defined on a batch.

    `gather` maps a local [n, ...] tensor to the detached [n_all, ...] one over all ranks in rank order (every rank
    must call it equally often); `offset` is this rank's first row in it; `seed` is equal on all ranks and new for
    each micro-batch. `training` is False in evaluation, where what a batch is made of says nothing.
    """

    gather: Callable[[Tensor], Tensor] = field(default=lambda x: x.detach())
    offset: int = 0
    seed: int = 0
    training: bool = True


Metric = tuple[Tensor, Tensor]
"""(sum, count), both 0-d: they add up over micro-batches and ranks."""


@dataclass(frozen=True)
class Term:
    """One summand of a loss: sum(values * weights) / (sum of weights over the whole optimizer step).

    values [n] carries the gradient; weights [n] >= 0 may depend on masks and labels only, never on log-probs,
    so that the trainer knows the sum over micro-batches and ranks before the first backward pass.
    """

    values: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Loss:
    """A sum of weighted means, with metrics as (sum, count)."""

    terms: tuple[Term, ...]
    metrics: dict[str, Metric] = field(default_factory=dict)

    @classmethod
    def of(cls, values: Tensor, weights: Tensor | None = None, **metrics: Metric) -> Loss:
        """Mean of `values` [n], weighted when `weights` [n] is given (token counts make a token mean)."""
        return cls(
            (Term(values, torch.ones_like(values.detach()) if weights is None else weights.to(values)),), metrics
        )

    def __add__(self, other: Loss) -> Loss:
        return Loss(self.terms + other.terms, {**self.metrics, **other.metrics})

    def __rmul__(self, factor: float) -> Loss:
        return Loss(tuple(Term(factor * term.values, term.weights) for term in self.terms), self.metrics)

    def with_metrics(self, **metrics: Metric) -> Loss:
        return replace(self, metrics={**self.metrics, **metrics})

    @property
    def per_example(self) -> Tensor:
        """[n] contribution of each example, scaled so that its plain mean is `mean()`."""
        parts = [t.values * t.weights * (len(t.weights) / t.weights.sum().clamp(min=1e-12)) for t in self.terms]
        return torch.stack(parts).sum(0)

    def mean(self) -> Tensor:
        """0-d: the loss of this batch alone."""
        return self.total([term.weights.sum() for term in self.terms])

    def total(self, normalisers: list[Tensor]) -> Tensor:
        """0-d: this micro-batch's share of the step's loss, given each term's weight sum over the whole step."""
        shares = [
            (t.values * t.weights).sum() / n.clamp(min=1e-12) for t, n in zip(self.terms, normalisers, strict=True)
        ]
        return torch.stack(shares).sum()


def metric(values: Tensor, where: Tensor | None = None) -> Metric:
    """(sum, count) of detached fp64 `values`, over the rows where `where` holds."""
    values = values.detach().double()
    if where is None:
        return values.sum(), torch.tensor(float(values.numel()), dtype=torch.float64, device=values.device)
    return (values * where).sum(), where.sum().double()
