"""Evaluates a method with its gradient where losses break: the check before anything expensive starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from raypo.errors import MethodError
from raypo.methods._log_partition import FullLogPartition
from raypo.methods._method import Method
from raypo.methods._scores import Batch, Pairs, Ranked, Scores, Unpaired

N, T, V = 6, 4, 5


def check_corners(method: Method, points: Iterable[Mapping[str, object]]) -> list[str]:
    """Problems of a method at points of its space (hyperparameters only), one line each; none means all is well.

    Each point is evaluated in fp32 on awkward inputs: policy equal to the reference, certain tokens, one-token answers
    and margins of 1e4 nats either way. Loss, metrics and gradients must be finite.
    """
    return [problem for point in points for problem in _problems_at(method, point)]


def _problems_at(method: Method, point: Mapping[str, object]) -> list[str]:
    where = ", ".join(f"{name}={value}" for name, value in point.items()) or "its defaults"
    found = []
    for name, case in _cases().items():
        try:
            found += [f"{method.name}: {text} on {name} at {where}" for text in _problems_on(method, point, *case)]
        except MethodError as error:
            return [str(error)]
        except Exception as error:  # whatever the code of a method does
            return [f"{method.name}: raises {type(error).__name__}: {error}, on {name} at {where}"]
    return found


def _problems_on(
    method: Method, point: Mapping[str, object], policy_logps: Tensor, reference_logps: Tensor, mask: Tensor
) -> list[str]:
    policy_logps = policy_logps.clone().requires_grad_()
    inputs = _inputs(method, point, _data(method.policy_type, reference_logps, mask), mask)
    loss = method.loss(_data(method.policy_type, policy_logps, mask), **inputs, **point)
    value = loss.mean()
    value.backward()
    problems = [] if value.isfinite() else [f"loss is not finite (got {value.item()})"]
    problems += [f"metric {name} is not finite" for name, (total, _) in loss.metrics.items() if not total.isfinite()]
    for name, tensor in {"log-probs": policy_logps, **inputs}.items():
        gradient = tensor.grad if isinstance(tensor, Tensor) else None
        if gradient is not None and not gradient.isfinite().all():
            problems.append(f"gradient of the {name} is not finite")
    return problems


def _cases() -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Policy log-probs, reference log-probs and masks [N, T]; of pairs, the first half of the rows is chosen."""
    usual = -torch.linspace(0.05, 3.0, N * T).reshape(N, T)
    mask = torch.arange(T) < torch.tensor([4, 1, 3, 2, 4, 1])[:, None]
    ahead = torch.where(torch.arange(N) < N // 2, 0.0, -1e4 / T)[:, None].expand(N, T)
    return {
        "policy equal to reference": (usual, usual, mask),
        "certain tokens": (torch.zeros(N, T), usual, mask),
        "one-token answers": (usual, usual.flip(0), mask & (torch.arange(T) == 0)),
        "chosen 1e4 nats ahead": (ahead, ahead.flip(0), torch.ones_like(mask)),
        "rejected 1e4 nats ahead": (ahead.flip(0), ahead, torch.ones_like(mask)),
    }


def _data(kind: type, logps: Tensor, mask: Tensor) -> Any:
    unit = torch.where(mask, torch.arange(T) // 2, -1)
    score = torch.linspace(1.0, 0.0, N)
    scores = Scores.of(logps, mask, unit, score)
    if kind is Pairs:
        half = N // 2
        return Pairs(*(Scores.of(logps[i], mask[i], unit[i], score[i]) for i in (slice(half), slice(half, N))))
    if kind is Unpaired:
        return Unpaired(scores, torch.arange(N) < N // 2)
    return Ranked(scores, torch.tensor([0, 1, 0, 1, 0, 1])) if kind is Ranked else scores


def _inputs(method: Method, point: Mapping[str, object], reference: Any, mask: Tensor) -> dict[str, Any]:
    half = N // 2
    makers: dict[str, Callable[[], Any]] = {
        "reference": lambda: reference,
        "moving_reference": lambda: reference,
        "mismatched": lambda: torch.tensor([-3.0, 5.0, 0.5]),
        "log_partition": lambda: FullLogPartition.of(
            *(_noise(half, T, V, seed=i) for i in range(4)), *mask.split(half)
        ),
        "token_kl": lambda: _noise(N, T).abs().requires_grad_(),
        "embeddings": lambda: torch.eye(half if method.policy_type is Pairs else N),
        "value": lambda: _noise(N, T).requires_grad_(),
        "prompt": lambda: Scores.of(-_noise(half if method.policy_type is Pairs else N, T).abs()),
        "batch": Batch,
        "state": lambda: method.initial_state(**point),
    }
    return {name: makers[name]() for name in method.needs_for(**point)}


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
