from __future__ import annotations

from dataclasses import dataclass

from raypo.methods._annotations import Fraction, PerNat, Steps
from raypo.methods._metrics import pair_metrics
from raypo.methods._primitives import log_ratios, neg_logsigmoid
from raypo.methods._scores import Loss, Pairs, metric


@dataclass
class MovingReference:
    """When the reference follows the policy: reference <- mix policy + (1 - mix) reference after each step."""

    tau: int
    alpha: float
    steps: int = 0

    @classmethod
    def initial(cls, *, tau: int, alpha: float, **_: object) -> MovingReference:
        return cls(tau, alpha)

    def after_step(self, metrics: dict[str, tuple[float, float]]) -> None:  # noqa: ARG002 - it counts steps alone
        self.steps += 1

    @property
    def mix(self) -> float:
        """Share of the policy to mix into the reference now; 0 between syncs."""
        return self.alpha if self.steps and self.steps % self.tau == 0 else 0.0


def tr_dpo(
    policy: Pairs,
    reference: Pairs,
    moving_reference: Pairs,
    state: MovingReference,
    *,
    beta: PerNat = 0.1,
    tau: Steps = 512,  # noqa: ARG001 - read by the state
    alpha: Fraction = 0.6,  # noqa: ARG001 - read by the state
) -> Loss:
    """Trust-region DPO: DPO against a reference that follows the policy.

        L = mean of -log sigma(beta h),    h against the moving reference
        after every tau steps: reference <- alpha policy + (1 - alpha) reference

    Paper: Gorbatovski et al. 2024, Learn Your Reference Model for Real Good Alignment (arXiv 2404.09656).

    Hard updates (TR-DPO^tau) are alpha = 1 with a long period, e.g. tau = 512; soft ones (TR-DPO^alpha) mix by
    alpha = 0.5-0.6. TRL applies both at once (alpha 0.6 every 512 steps), as the comparison in the epsilon-DPO paper
    does (0.6 every 128). A soft update at every single step pins h near 0. `rewards/*` are against the moving
    reference, `dpo/*` against the first one.
    By hand: right after a hard update policy == moving reference, and L = log 2.

    >>> from torch import tensor
    >>> policy, first = Pairs.of(tensor([[-1.0]]), tensor([[-4.0]])), Pairs.of(tensor([[-2.0]]), tensor([[-2.0]]))
    >>> round(tr_dpo(policy, first, policy, MovingReference(512, 1.0)).mean().item(), 4)
    0.6931
    """
    u_chosen, u_rejected = log_ratios(policy, moving_reference)
    loss = Loss.of(neg_logsigmoid(beta * (u_chosen - u_rejected)))
    metrics = pair_metrics(policy, (beta * u_chosen, beta * u_rejected), reference)
    syncs = u_chosen.new_tensor([float(state.steps // state.tau)])
    return loss.with_metrics(**metrics, **{"tr_dpo/syncs": metric(syncs)})
