from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from raypo.methods._annotations import Bounds, NonNegative, PerNat
from raypo.methods._metrics import pair_metrics
from raypo.methods._primitives import log_ratios, neg_logsigmoid
from raypo.methods._scores import Batch, Loss, Pairs, metric

Share = Annotated[float, Bounds(0, 1, high_open=True)]
LOWEST_BETA, LOWEST_STD = 1e-3, 1e-6


@dataclass
class Margins:
    """Running mean and standard deviation of the margins h, nats; both start at 0 and move by 1 - momentum a step."""

    momentum: float
    mean: float = 0.0
    std: float = 0.0

    @classmethod
    def initial(cls, *, momentum: float, **_: object) -> Margins:
        return cls(momentum)

    def following(self, mean: float, std: float) -> Margins:
        """The statistics after a batch with this mean and standard deviation."""
        m = self.momentum
        return Margins(m, m * self.mean + (1 - m) * mean, m * self.std + (1 - m) * std)

    def after_step(self, metrics: dict[str, tuple[float, float]]) -> None:
        total, count = metrics["beta_dpo/h"]
        spread = max(0.0, metrics["beta_dpo/h_squared"][0] - total**2 / count) / max(1.0, count - 1)
        now = self.following(total / count, spread**0.5)
        self.mean, self.std = now.mean, now.std


def beta_dpo(
    policy: Pairs,
    reference: Pairs,
    batch: Batch,
    state: Margins,
    *,
    beta: PerNat = 0.1,
    a: NonNegative = 0.6,
    drop: Share = 0.2,
    momentum: Share = 0.9,  # noqa: ARG001 - read by the state
) -> Loss:
    """DPO with a beta for each batch, and without the pairs whose margins are unusual.

        L = mean over kept pairs of -log sigma(beta_b h),    beta_b = beta (1 + a (mean of kept h - m)) >= 0.001
        kept: n (1 - drop) pairs drawn with weight exp(-(h - m)^2 / (2 s^2));    m, s: running mean and std of h

    Paper: Wu et al. 2024, beta-DPO: Direct Preference Optimization with Dynamic beta (arXiv 2407.08639).

    The batch is the micro-batch over all ranks; the draw is the same on all of them, and the mean is over all kept
    pairs. h is the unscaled margin, as in the authors' code, which gave the published results (their text can be read
    as beta h, which rescales a by 1/beta). Their statistics move once per micro-batch and in evaluation too, and each
    rank divides by its own kept pairs; here they move once per step, in training only. In evaluation all pairs are kept
    and beta_b = beta: DPO, for there a pair's loss must not depend on the pairs beside it.
    By hand: policy == reference, so every h = 0, beta_b = beta and L = log 2.

    >>> policy = Pairs.of(torch.tensor([[-1.0]]), torch.tensor([[-4.0]]))
    >>> round(beta_dpo(policy, policy, Batch(), Margins(0.9)).mean().item(), 4)
    0.6931
    """
    u_chosen, u_rejected = log_ratios(policy, reference)
    h = batch.gather(u_chosen - u_rejected).double()
    if batch.training:
        now = state.following(h.mean().item(), h.std(correction=min(1, len(h) - 1)).item())
        kept = keep(h, now, max(1, int(len(h) * (1 - drop))), batch.seed)
        beta_batch = beta * (1 + a * (h[kept].mean().item() - now.mean))
    else:
        now, kept, beta_batch = state, torch.ones_like(h, dtype=torch.bool), beta

    own = kept[batch.offset : batch.offset + len(policy)]
    loss = neg_logsigmoid(max(beta_batch, LOWEST_BETA) * (u_chosen - u_rejected))
    metrics = pair_metrics(policy, (beta * u_chosen, beta * u_rejected), reference) | {
        "beta_used": metric(h.new_tensor([max(beta_batch, LOWEST_BETA)])),
        "beta_dpo/clamped": metric(h.new_tensor([float(beta_batch < LOWEST_BETA)])),
        "beta_dpo/h": metric(u_chosen - u_rejected),
        "beta_dpo/h_squared": metric((u_chosen - u_rejected).double() ** 2),
        "beta_dpo/h_kept": metric(u_chosen - u_rejected, own),
        "beta_dpo/kept": metric(own),
        "beta_dpo/mean": metric(h.new_tensor([now.mean])),
        "beta_dpo/std": metric(h.new_tensor([now.std])),
    }
    return Loss.of(loss * own * (len(h) / kept.sum())).with_metrics(**metrics)


def keep(h: Tensor, margins: Margins, count: int, seed: int) -> Tensor:
    """[n] bool: `count` pairs drawn without replacement, likelier the nearer h is to the running mean.

    Gumbel noise on log-weights draws the same as successive picks, on every rank alike, and cannot run out of weight.
    """
    log_weight = -((h - margins.mean) ** 2) / (2 * max(margins.std, LOWEST_STD) ** 2)
    uniform = torch.rand(len(h), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    gumbel = -torch.log(-torch.log(uniform.clamp(min=1e-300))).to(h.device)
    chosen = torch.topk(log_weight - log_weight.max() + gumbel, count).indices
    return torch.zeros(len(h), dtype=torch.bool, device=h.device).scatter(0, chosen, True)
