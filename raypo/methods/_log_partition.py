"""The log-partition of epsilon-DPO from full logits, for notebooks and tests; training computes it in tiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from raypo.methods._scores import Pairs

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class FullLogPartition:
    """K(s) = log E_policy[(policy/reference)^s] per token; holds log-probs [B, T, V] of both models and both sides."""

    policy: tuple[Tensor, Tensor]
    reference: tuple[Tensor, Tensor]
    masks: tuple[Tensor, Tensor]

    @classmethod
    def of(
        cls,
        policy_chosen: Tensor,
        policy_rejected: Tensor,
        reference_chosen: Tensor,
        reference_rejected: Tensor,
        chosen_mask: Tensor,
        rejected_mask: Tensor,
    ) -> FullLogPartition:
        """From logits [B, T, V] that predict the completion tokens, and their masks [B, T]."""
        policy = policy_chosen.detach().log_softmax(-1), policy_rejected.detach().log_softmax(-1)
        reference = reference_chosen.detach().log_softmax(-1), reference_rejected.detach().log_softmax(-1)
        return cls(policy, reference, (chosen_mask.bool(), rejected_mask.bool()))

    def __call__(self, *strengths: float) -> tuple[Pairs, ...]:
        return tuple(self._expectations(lambda q, s=s: torch.expm1(s * q), torch.log1p) for s in strengths)  # type: ignore[misc]

    def kl(self) -> Pairs:
        return self._expectations(lambda q: q, lambda mean: mean)

    def _expectations(self, inner: Map, outer: Map) -> Pairs:
        """outer(E_policy[inner(log policy/reference)]) of every token."""
        sides = (_expectation(inner, *logps) for logps in zip(self.policy, self.reference, strict=True))
        chosen, rejected = map(outer, sides)
        return Pairs.of(chosen, rejected, *self.masks)


def _expectation(inner: Map, policy: Tensor, reference: Tensor) -> Tensor:
    p = policy.exp()
    # A token that the policy excludes adds nothing, even where both models exclude it and q is NaN.
    return torch.where(p > 0, p * inner(policy - reference), 0.0).sum(-1)
