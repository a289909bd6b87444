"""What every method reports, by the same names, as (sum, count).

`rewards/*` is the method's own reward; `dpo/*` and `logratio/*` are log pi/pi_ref in nats (DPO's reward at beta = 1),
which compare between methods. Accuracies count strict inequalities.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from raypo.methods._primitives import by_group, log_ratio, log_ratios
from raypo.methods._scores import Metric, Pairs, Ranked, Scores, Unpaired, metric


def pair_metrics(policy: Pairs, rewards: tuple[Tensor, Tensor], reference: Pairs | None = None) -> dict[str, Metric]:
    """Metrics of pairs whose chosen and rejected completions earn `rewards` [B], [B]."""
    chosen, rejected = rewards
    metrics = {
        "rewards/chosen": metric(chosen),
        "rewards/rejected": metric(rejected),
        "rewards/margins": metric(chosen - rejected),
        "rewards/accuracies": metric(chosen > rejected),
        "gradient_weight": metric(torch.sigmoid(rejected - chosen)),
        **_completions("chosen", policy.chosen, reference.chosen if reference else None),
        **_completions("rejected", policy.rejected, reference.rejected if reference else None),
        "nll": (-metric(policy.chosen.sum())[0], metric(policy.chosen.mask)[0]),
    }
    if reference is None:
        return metrics
    u_chosen, u_rejected = log_ratios(policy, reference)
    return metrics | {
        "dpo/margins": metric(u_chosen - u_rejected),
        "dpo/accuracies": metric(u_chosen > u_rejected),
        "dpo/negative_margins": metric(u_chosen < u_rejected),
        "kl/token_k1": _token_kl([policy.chosen, policy.rejected], u_chosen.sum() + u_rejected.sum()),
    }


def unpaired_metrics(
    policy: Unpaired, rewards: Tensor, reference: Unpaired | None = None, baseline: Tensor | float = 0.0
) -> dict[str, Metric]:
    """Metrics of labelled completions with `rewards` [N]; one is accurate on its label's side of the baseline."""
    good, frozen = policy.desirable, reference.scores if reference else None
    metrics = {
        "rewards/chosen": metric(rewards, good),
        "rewards/rejected": metric(rewards, ~good),
        "rewards/accuracies": metric(torch.where(good, rewards > baseline, rewards < baseline)),
        "desirable": metric(good),
        **_completions("chosen", policy.scores, frozen, good),
        **_completions("rejected", policy.scores, frozen, ~good),
        "nll": (-metric(policy.scores.sum(), good)[0], metric(policy.scores.mask.sum(-1), good)[0]),
    }
    if frozen is None:
        return metrics
    u = log_ratio(policy.scores, frozen)
    return metrics | {
        "dpo/accuracies": metric(torch.where(good, u > 0, u < 0)),
        "kl/token_k1": _token_kl([policy.scores], u.sum()),
    }


def ranked_metrics(policy: Ranked, rewards: Tensor, reference: Ranked | None = None) -> dict[str, Metric]:
    """Metrics of lists: a prompt's best completion is chosen, its worst rejected; accuracies are over all pairs."""
    rows, real = by_group(policy.group)
    score = _scores_of(policy)[rows]
    best, worst = _best_and_worst(policy)
    pairs = Pairs(_take(policy.scores, best), _take(policy.scores, worst))
    frozen = Pairs(_take(reference.scores, best), _take(reference.scores, worst)) if reference else None
    metrics = pair_metrics(pairs, (rewards[best], rewards[worst]), frozen)
    ordered = (score[:, :, None] > score[:, None, :]) & real[:, :, None] & real[:, None, :]
    metrics["rewards/accuracies"] = metric(rewards[rows][:, :, None] > rewards[rows][:, None, :], ordered)
    if reference is not None:
        u = log_ratio(policy.scores, reference.scores)[rows]
        metrics["dpo/accuracies"] = metric(u[:, :, None] > u[:, None, :], ordered)
    return metrics


def completion_metrics(scores: Scores) -> dict[str, Metric]:
    """Metrics of demonstrations, under the names of chosen completions."""
    return _completions("chosen", scores, None) | {"nll": (-metric(scores.sum())[0], metric(scores.mask)[0])}


def logit_metrics(
    logits: Pairs | Unpaired | Ranked | Scores, entropy: Pairs | Unpaired | Ranked | Scores
) -> dict[str, Metric]:
    """Means over tokens of the mean logit, by side, and of the entropy (nats); both are given as log-probs are."""
    sides = {f"logits/{side}": _token_mean([scores]) for side, scores in _sides(logits).items()}
    return sides | {"entropy": _token_mean([*_sides(entropy).values()])}


def means(metrics: Mapping[str, tuple[float | Tensor, float | Tensor]]) -> dict[str, float]:
    """The mean of each metric that was counted at all; margins of unpaired data are differences of class means."""
    values = {name: float(total) / float(count) for name, (total, count) in metrics.items() if float(count) > 0}
    for margins, reward in (("rewards/margins", "rewards"), ("dpo/margins", "logratio")):
        if margins not in values and {f"{reward}/chosen", f"{reward}/rejected"} <= values.keys():
            values[margins] = values[f"{reward}/chosen"] - values[f"{reward}/rejected"]
    return values


def _completions(side: str, policy: Scores, reference: Scores | None, where: Tensor | None = None) -> dict[str, Metric]:
    metrics = {
        f"logps/{side}": metric(policy.sum(), where),
        f"logps_avg/{side}": metric(policy.mean(), where),
        f"lengths/{side}": metric(policy.mask.sum(-1), where),
    }
    if reference is None:
        return metrics
    return metrics | {
        f"ref_logps/{side}": metric(reference.sum(), where),
        f"logratio/{side}": metric(log_ratio(policy, reference), where),
    }


def _sides(values: Pairs | Unpaired | Ranked | Scores) -> dict[str, Scores]:
    """The chosen and rejected completions of any data; of lists the best and the worst."""
    if isinstance(values, Pairs):
        return {"chosen": values.chosen, "rejected": values.rejected}
    if isinstance(values, Unpaired):
        return {"chosen": _take(values.scores, values.desirable), "rejected": _take(values.scores, ~values.desirable)}
    if isinstance(values, Ranked):
        best, worst = _best_and_worst(values)
        return {"chosen": _take(values.scores, best), "rejected": _take(values.scores, worst)}
    return {"chosen": values}


def _best_and_worst(policy: Ranked) -> tuple[Tensor, Tensor]:
    """Rows [prompts] of each list's best and worst completion."""
    rows, real = by_group(policy.group)
    score = _scores_of(policy)[rows]
    best = rows.gather(1, score.masked_fill(~real, -torch.inf).argmax(1, keepdim=True)).squeeze(1)
    return best, rows.gather(1, score.masked_fill(~real, torch.inf).argmin(1, keepdim=True)).squeeze(1)


def _token_mean(sides: list[Scores]) -> Metric:
    sums, counts = zip(*((metric(side.logps)[0], metric(side.mask)[0]) for side in sides), strict=True)
    return torch.stack(sums).sum(), torch.stack(counts).sum()


def _token_kl(sides: list[Scores], log_ratio_sum: Tensor) -> Metric:
    return metric(log_ratio_sum)[0], torch.stack([metric(side.mask)[0] for side in sides]).sum()


def _scores_of(policy: Ranked) -> Tensor:
    assert policy.scores.score is not None  # Ranked.of requires it
    return policy.scores.score


def _take(scores: Scores, rows: Tensor) -> Scores:
    return Scores(scores.logps[rows], scores.mask[rows])
