from __future__ import annotations

import torch
from torch import Tensor

from raypo.methods._annotations import PerNat, Positive
from raypo.methods._metrics import unpaired_metrics
from raypo.methods._primitives import log_ratio, neg_logsigmoid
from raypo.methods._scores import Batch, Loss, Unpaired, metric
from raypo.methods.rpo import prompt_weights, slope_only


def rpo_unpaired(
    policy: Unpaired, reference: Unpaired, embeddings: Tensor, batch: Batch, *, beta: PerNat = 0.1, tau: Positive = 0.5
) -> Loss:
    """Relative preference optimisation on labels: each desirable answer against all undesirable ones of the batch.

        L = mean over desirable i, undesirable j of -log sigma(beta w_ij (u_i - u_j))
        w_ij = softmax over undesirable j of -(1 - e_i . e_j) / tau,    e the prompts' embeddings

    Paper: Yin et al. 2024, Relative Preference Optimization (arXiv 2402.10958), the unpaired form.

    The batch is the micro-batch over all ranks; each weighs in a step by its number of examples, and one of a single
    class has loss 0, as in the authors' code.
    By hand: one of each, u = 3 and 0, beta = 1: w = 1 and L = log(1 + e^-3).

    >>> policy = Unpaired.of(torch.tensor([[-1.0], [-2.0]]), None, torch.tensor([True, False]))
    >>> reference = Unpaired.of(torch.tensor([[-4.0], [-2.0]]), None, policy.desirable)
    >>> round(rpo_unpaired(policy, reference, torch.eye(2), Batch(), beta=1.0).mean().item(), 4)
    0.0486
    """
    u = log_ratio(policy.scores, reference.scores)
    all_u, good = batch.gather(u), batch.gather(policy.desirable.to(u)) > 0.5
    n, m, k = len(good), max(1, int(good.sum())), max(1, int((~good).sum()))
    w = prompt_weights(batch.gather(embeddings).to(u), tau, ~good).nan_to_num(0.0)
    own = slice(batch.offset, batch.offset + len(policy))

    rows = (neg_logsigmoid(beta * w[own] * (u[:, None] - all_u)) * ~good).sum(1) / k
    columns = (neg_logsigmoid(beta * w[:, own] * (all_u[:, None] - u)) * good[:, None]).sum(0) / m
    loss = Loss.of(torch.where(policy.desirable, rows * n / m, slope_only(columns) * n / k))
    metrics = unpaired_metrics(policy, beta * u, reference)
    return loss.with_metrics(**metrics, **{"rpo/largest_weight": metric(w[own].amax(1), policy.desirable)})
