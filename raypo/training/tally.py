"""Sums and counts of a step's metrics, over micro-batches and ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from raypo.methods import Loss, means
from raypo.training import comm


class Tally:
    """Adds up in fp64; every rank adds the same names, with nothing where it has no examples."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, loss: Loss, total: Tensor, counts: bool) -> None:
        """A micro-batch of training: `total` is its share of the step's loss."""
        self._add("loss", total.detach().double(), torch.zeros_like(total.detach()).double(), counts)
        self._add_metrics(loss, counts)

    def add_evaluation(self, loss: Loss, counts: bool) -> None:
        """A micro-batch of evaluation: terms are means of their own."""
        for i, term in enumerate(loss.terms):
            self._add(f"term/{i}", (term.values * term.weights).double().sum(), term.weights.double().sum(), counts)
        self._add_metrics(loss, counts)

    def _add_metrics(self, loss: Loss, counts: bool) -> None:
        for name, (value, count) in loss.metrics.items():
            self._add(name, value.double(), count.double(), counts)

    def _add(self, name: str, value: Tensor, count: Tensor, counts: bool) -> None:
        pair = torch.stack([value.detach(), count.detach().to(value.device)])
        pair = pair if counts else torch.zeros_like(pair)
        self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    def over_ranks(self) -> dict[str, tuple[float, float]]:
        """(sum, count) by name, equal on all ranks."""
        names = sorted(self._sums)
        table = comm.total(torch.stack([self._sums[name] for name in names])).tolist()
        return {name: (value, count) for name, (value, count) in zip(names, table, strict=True)}

    def means_over_ranks(self) -> dict[str, float]:
        """Means by name; "loss" is the sum of the terms' means."""
        sums = self.over_ranks()
        terms = [sums.pop(name) for name in list(sums) if name.startswith("term/")]
        return {"loss": sum(value / max(count, 1e-12) for value, count in terms), **means(sums)}
