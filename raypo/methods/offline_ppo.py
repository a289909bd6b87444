from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor

from raypo.methods._annotations import Fraction, NonNegative, OnlyIf, ProperFraction
from raypo.methods._metrics import unpaired_metrics
from raypo.methods._primitives import token_mean
from raypo.methods._scores import Batch, Loss, Metric, Unpaired, metric

LARGEST_LOG_RATIO = 20.0
KlMode = Literal["k3_ref", "exact", "head", "legacy"]


def offline_ppo(
    policy: Unpaired,
    reference: Unpaired,
    batch: Annotated[Batch | None, OnlyIf("whiten", True)] = None,
    value: Annotated[Tensor | None, OnlyIf("advantage", "gae")] = None,
    token_kl: Annotated[Tensor | None, OnlyIf("kl_mode", "exact")] = None,
    *,
    epsilon: ProperFraction = 0.5,
    clip: Literal["symmetric", "reciprocal"] = "symmetric",
    beta: NonNegative = 0.1,
    kl_mode: KlMode = "k3_ref",
    advantage: Literal["label", "gae"] = "label",
    whiten: bool = False,
    gamma: Fraction = 0.99,
    lambda_: Fraction = 0.95,
    critic_weight: NonNegative = 0.01,
    returns: Literal["inclusive", "exclusive"] = "inclusive",
) -> Loss:
    """PPO on fixed labelled data: the label +1 or -1 is the reward of the last token, the reference the old policy.

        L = token mean of max(-A rho, -A clip(rho)) + beta KL + critic_weight (V - G)^2 / 2,    rho = pi / pi_ref
        clip to [1 - epsilon, 1 + epsilon], or "reciprocal" [epsilon, 1 / epsilon]
        A = label;  "gae": A_t = sum_k (gamma lambda_)^k (r + gamma V' - V)_(t+k),    G_t = sum_k gamma^k r_(t+k)
        KL: k3_ref rho - 1 - log rho;  exact, from full logits;  head log rho;  legacy -log rho

    Paper: Ethayarajh et al. 2024, KTO: Model Alignment as Prospect Theoretic Optimization (arXiv 2402.01306; its
    offline PPO baseline), after Schulman et al. 2017, Proximal Policy Optimization (arXiv 1707.06347), eq. 7.

    "gae" with whiten, symmetric, head and inclusive is the present code of that paper's authors; reciprocal, legacy
    and exclusive returns (G without its own r) their early code, which gave the baseline of the RPO paper. Neither
    "head" nor "legacy" is the gradient of a KL on fixed data: one pushes every token down without bound, the other
    up. "k3_ref" and "exact" are never negative and least at the reference. "label" is the critic-free text form.
    Whitening takes mean and variance over the tokens of the micro-batch on all ranks.
    By hand: policy == reference: rho = 1, KL = 0, so a desirable completion costs -1.

    >>> policy = Unpaired.of(torch.tensor([[-1.0, -2.0]]), None, torch.tensor([True]))
    >>> offline_ppo(policy, policy).mean().item()
    -1.0
    """
    order = torch.argsort(~policy.scores.mask, dim=-1, stable=True)
    mask = policy.scores.mask.gather(-1, order)
    log_rho = (policy.scores.logps - reference.scores.logps.detach()).gather(-1, order)
    label = torch.where(policy.desirable, 1.0, -1.0).to(log_rho)[:, None]
    advantages, critic = label.expand_as(log_rho), Loss(())
    if advantage == "gae":
        assert value is not None  # Method.loss has seen to it
        last = torch.arange(mask.shape[1], device=mask.device) == policy.scores.lengths[:, None] - 1
        values = value.gather(-1, order) * mask
        advantages = generalised_advantages(values.detach(), label * last, gamma, lambda_)
        target = discounted_sum(label * last, gamma) - (label * last if returns == "exclusive" else 0.0)
        critic = critic_weight * _critic(values, target, mask)
    if whiten:
        assert batch is not None  # as above
        advantages = whitened(advantages, mask, batch)

    low, high = (1 - epsilon, 1 + epsilon) if clip == "symmetric" else (epsilon, 1 / epsilon)
    rho = log_rho.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()
    surrogate = torch.maximum(-advantages * rho, -advantages * rho.clamp(low, high))
    kl = _kl(log_rho, kl_mode) if token_kl is None else token_kl.gather(-1, order)
    loss = token_mean(surrogate, mask) + beta * token_mean(kl, mask) + critic
    metrics = unpaired_metrics(policy, (log_rho * mask).sum(-1), reference)
    return loss.with_metrics(**metrics, **_metrics(mask, surrogate, rho, kl, low, high))


def generalised_advantages(values: Tensor, rewards: Tensor, gamma: float, lambda_: float) -> Tensor:
    """[N, T] GAE of values and rewards that are 0 beyond the last token."""
    following = torch.nn.functional.pad(values[:, 1:], (0, 1))
    return discounted_sum(rewards + gamma * following - values, gamma * lambda_)


def discounted_sum(x: Tensor, rate: float) -> Tensor:
    """[N, T] sum over k of rate^k x_(t+k)."""
    step = torch.arange(x.shape[1], device=x.device)
    ahead = step[:, None] - step
    return x @ torch.where(ahead >= 0, torch.as_tensor(rate, dtype=x.dtype, device=x.device) ** ahead.clamp(min=0), 0.0)


def whitened(x: Tensor, mask: Tensor, batch: Batch) -> Tensor:
    """[N, T] `x` with mean 0 and variance 1 over the masked tokens of all ranks; all equal values become 0."""
    sums = torch.stack([mask.sum(-1).to(x), (x * mask).sum(-1), (x**2 * mask).sum(-1)], dim=-1).double()
    count, total, squares = batch.gather(sums).sum(0)
    mean = total / count
    return ((x - mean) / (squares / count - mean**2 + 1e-8).clamp(min=1e-8).sqrt()).to(x)


def _kl(log_rho: Tensor, mode: str) -> Tensor:
    if mode == "k3_ref":
        # Only the top is clamped: below, exp vanishes by itself and the pull of -log rho upwards must stay.
        capped = log_rho.clamp(max=LARGEST_LOG_RATIO)
        return torch.expm1(capped) - capped
    return log_rho if mode == "head" else -log_rho


def _critic(values: Tensor, target: Tensor, mask: Tensor) -> Loss:
    error = (values - target) ** 2 / 2
    metrics = {"ppo/critic": metric(error, mask), "ppo/value": metric(values, mask), "ppo/return": metric(target, mask)}
    return token_mean(error, mask).with_metrics(**metrics)


def _metrics(mask: Tensor, surrogate: Tensor, rho: Tensor, kl: Tensor, low: float, high: float) -> dict[str, Metric]:
    return {
        "ppo/surrogate": metric(surrogate, mask),
        "ppo/kl": metric(kl, mask),
        "ppo/ratio": metric(rho, mask),
        "ppo/clipped_low": metric(rho < low, mask),
        "ppo/clipped_high": metric(rho > high, mask),
    }
