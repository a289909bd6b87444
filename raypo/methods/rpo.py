from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from raypo.methods._annotations import Fraction, PerNat, Positive
from raypo.methods._metrics import pair_metrics
from raypo.methods._primitives import log_ratios, neg_logsigmoid
from raypo.methods._scores import Batch, Loss, Pairs, metric


def rpo(
    policy: Pairs,
    reference: Pairs,
    embeddings: Tensor,
    batch: Batch,
    *,
    beta: PerNat = 0.1,
    tau: Positive = 0.5,
    weighting: Literal["distance", "diagonal"] = "distance",
    diagonal_weight: Fraction = 0.8,
) -> Loss:
    """Relative preference optimisation: each chosen answer against the rejected answers of similar prompts too.

        L = mean over i, j of -log sigma(beta w_ij (u(chosen_i) - u(rejected_j))),    i, j over the batch
        w_ij = softmax over j of -(1 - e_i . e_j) / tau,    e the prompts' embeddings

    Paper: Yin et al. 2024, Relative Preference Optimization (arXiv 2402.10958).

    The batch is the micro-batch over all ranks (the authors' never leaves its device); rows of w sum to 1, so the
    effective beta shrinks with it. "diagonal" is the ablation without embeddings: diagonal_weight on the DPO losses,
    the rest spread over the other pairs, beta alone inside. One pair is DPO exactly. See rpo_unpaired for labels.
    By hand: policy == reference gives log 2 for any weights.

    >>> policy = Pairs.of(torch.tensor([[-1.0], [-2.0]]), torch.tensor([[-4.0], [-3.0]]))
    >>> round(rpo(policy, policy, torch.eye(2), Batch()).mean().item(), 4)
    0.6931
    """
    chosen, rejected = log_ratios(policy, reference)
    all_chosen, all_rejected = batch.gather(chosen), batch.gather(rejected)
    inside, outside = _weights(batch.gather(embeddings).to(chosen), tau, weighting, diagonal_weight)
    own = slice(batch.offset, batch.offset + len(policy))

    rows = outside[own] * neg_logsigmoid(beta * inside[own] * (chosen[:, None] - all_rejected))
    columns = outside[:, own] * neg_logsigmoid(beta * inside[:, own] * (all_chosen[:, None] - rejected))
    metrics = pair_metrics(policy, (beta * chosen, beta * rejected), reference)
    metrics["rpo/largest_weight"] = metric(inside[own].amax(1))
    return Loss.of(rows.sum(1) + slope_only(columns.sum(0))).with_metrics(**metrics)


def prompt_weights(embeddings: Tensor, tau: float, columns: Tensor | None = None) -> Tensor:
    """[n, n] softmax over j of -(1 - e_i . e_j) / tau, over the `columns` [n] bool if given."""
    similarity = (embeddings @ embeddings.T - 1) / tau
    return (similarity if columns is None else similarity.masked_fill(~columns, -torch.inf)).softmax(1)


def slope_only(x: Tensor) -> Tensor:
    """Zero with the gradient of x: a term whose value another row, here or on another rank, already counts."""
    return x - x.detach()


def _weights(embeddings: Tensor, tau: float, weighting: str, diagonal_weight: float) -> tuple[Tensor, Tensor]:
    """[n, n] weights inside the sigmoid, and [n, n] weights of the terms, whose rows sum to 1."""
    n = len(embeddings)
    ones, diagonal = embeddings.new_ones(n, n), torch.eye(n, dtype=torch.bool, device=embeddings.device)
    if weighting == "distance":
        return prompt_weights(embeddings, tau), ones / n
    if n == 1:
        return ones, ones
    return ones, torch.where(diagonal, diagonal_weight * ones, (1 - diagonal_weight) / (n - 1))
