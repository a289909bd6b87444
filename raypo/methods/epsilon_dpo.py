from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from raypo.methods._annotations import Nats, PerNat, ProperFraction
from raypo.methods._metrics import pair_metrics
from raypo.methods._primitives import log_ratios, neg_logsigmoid
from raypo.methods._scores import LogPartition, Loss, Metric, Pairs, metric


@dataclass
class Beta:
    """The current beta; each step divides it by 1 + epsilon mean(s), or replaces it by the mean of beta_tilde."""

    beta: float
    epsilon: float
    mean_step: bool

    @classmethod
    def initial(cls, *, beta: float, epsilon: float, beta_update: str, **_: object) -> Beta:
        return cls(beta, epsilon, beta_update == "mean_step")

    def after_step(self, metrics: dict[str, tuple[float, float]]) -> None:
        total, count = metrics["epsilon_dpo/step" if self.mean_step else "beta_tilde"]
        self.beta = self.beta / (1 + self.epsilon * total / count) if self.mean_step else total / count


def epsilon_dpo(
    policy: Pairs,
    reference: Pairs,
    log_partition: LogPartition,
    state: Beta,
    *,
    beta: PerNat = 0.01,
    epsilon: ProperFraction = 0.01,
    epsilon_check: ProperFraction | None = None,
    beta_update: Literal["mean_step", "mean_beta"] = "mean_step",  # noqa: ARG001 - read by the state
    min_dz: Nats = 0.0,
) -> Loss:
    """DPO with a beta per pair: smaller where a smaller beta would separate it better, larger where a larger one would.

        L = mean of -log sigma(beta_tilde h),    beta_tilde = beta / (1 + epsilon s)
        s = +1 if z(+e) > z > z(-e),  -1 if z(+e) < z < z(-e),  else 0,    e = epsilon_check, or epsilon
        z(e) - z = e h - sum_chosen K(e) + sum_rejected K(e),    K(e) = log E_pi[(pi / pi_ref)^e] of a token

    Paper: Lee et al. 2025, KL Penalty Control via Perturbation for Direct Preference Optimization, algorithm 1.

    z is the policy's log-ratio of chosen to rejected, z(e) that of softmax((1 + e) f - e f_ref) token by token, here in
    closed form. `beta` is where beta starts; it then follows the batch. "mean_step" (beta / (1 + epsilon mean s), the
    harmonic mean of beta_tilde) is the authors' code and gave the published results, "mean_beta" the paper's text.
    In exact arithmetic nearly every pair takes a step; the published share of steps needs the dead zone that bf16
    log-probs have, which `min_dz` of 0.25-1 emulates for answers of 50-250 nats.
    By hand: equal models give s = 0, h = 0 and log 2.

    >>> import torch
    >>> from raypo.methods import FullLogPartition
    >>> f, policy = torch.zeros(1, 1, 3), Pairs.of(torch.tensor([[-1.0]]), torch.tensor([[-4.0]]))
    >>> equal = FullLogPartition.of(f, f, f, f, policy.chosen.mask, policy.rejected.mask)
    >>> round(epsilon_dpo(policy, policy, equal, Beta(0.01, 0.01, True)).mean().item(), 4)
    0.6931
    """
    u_chosen, u_rejected = log_ratios(policy, reference)
    h = (u_chosen - u_rejected).detach()
    e = epsilon if epsilon_check is None else epsilon_check
    up, down = (s * h - k.margin() for s, k in zip((e, -e), log_partition(e, -e), strict=True))
    step = ((up > min_dz) & (down < -min_dz)).double() - ((up < -min_dz) & (down > min_dz)).double()
    beta_tilde = state.beta / (1 + epsilon * step)

    chosen, rejected = beta_tilde.to(h) * u_chosen, beta_tilde.to(h) * u_rejected
    kl = log_partition.kl()
    metrics: dict[str, Metric] = {
        "beta_used": metric(h.new_tensor([state.beta], dtype=step.dtype)),
        "beta_tilde": metric(beta_tilde),
        "epsilon_dpo/step": metric(step),
        "epsilon_dpo/beta_over_initial": metric(h.new_tensor([state.beta / beta], dtype=step.dtype)),
        "epsilon_dpo/fraction_plus": metric(step > 0),
        "epsilon_dpo/fraction_minus": metric(step < 0),
        "epsilon_dpo/delta_up": metric(up),
        "epsilon_dpo/delta_down": metric(down),
        "epsilon_dpo/first_order": metric(h - kl.margin()),
        "kl/chosen": metric(kl.chosen.sum()),
        "kl/rejected": metric(kl.rejected.sum()),
    }
    loss = Loss.of(neg_logsigmoid(chosen - rejected))
    return loss.with_metrics(**pair_metrics(policy, (chosen, rejected), reference), **metrics)
