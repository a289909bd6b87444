"""Log-probs of given tokens from hidden states and LM head, in chunks: full logits never exist.

The backward pass computes a chunk's logits again, unless its probabilities were among the first KEPT_ELEMENTS.
S scored tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

CHUNK_ELEMENTS = 8 * 2**20
"""Logits held at once, in elements; at least MIN_ROWS tokens are taken together."""
KEPT_ELEMENTS = 4 * CHUNK_ELEMENTS
"""Probabilities kept for the backward pass, in elements: all of a small vocabulary, next to none of a large one."""
MIN_ROWS = 16
"""CPU matrix kernels give a row the same bits whatever its company, from about this many rows on."""


@dataclass(frozen=True)
class HeadShape:
    """What a model does to its logits after the matrix product: logits -> softcap(scale * logits)."""

    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def of(cls, config: Any) -> HeadShape:
        """Read from a Hugging Face config (Gemma's cap, Cohere's factor, Granite's divisor)."""
        scale = getattr(config, "logit_scale", None) or 1.0
        scale /= getattr(config, "logits_scaling", None) or 1.0
        return cls(float(scale), getattr(config, "final_logit_softcapping", None))

    def slope(self, logits: Tensor) -> Tensor | float:
        """d logits / d (raw matrix product): scale (1 - (logits / cap)^2), or the scale where there is no cap."""
        if self.softcap is None:
            return self.scale
        return self.scale * (1 - (logits / self.softcap) ** 2)


def chunks(rows: int, vocabulary: int) -> list[slice]:
    """Slices of near-equal size that cover `rows` tokens, each of at most about CHUNK_ELEMENTS logits."""
    size = max(MIN_ROWS * 2, CHUNK_ELEMENTS // vocabulary)
    count = max(1, -(-rows // size))
    bounds = [rows * i // count for i in range(count + 1)]
    return [slice(a, b) for a, b in pairwise(bounds)]


def logits_of(hidden: Tensor, weight: Tensor, bias: Tensor | None, shape: HeadShape) -> Tensor:
    """[n, V] logits in fp32 (fp64 stays fp64), accumulated in fp32 whatever the model's dtype."""
    n = hidden.shape[0]
    if n < MIN_ROWS:
        hidden = torch.cat([hidden, hidden.new_zeros(MIN_ROWS - n, hidden.shape[1])])
    if hidden.dtype in (torch.float32, torch.float64):
        logits = hidden @ weight.T
    elif hidden.is_cuda:
        logits = torch.mm(hidden, weight.T, out_dtype=torch.float32)
    else:
        logits = hidden.float() @ weight.float().T
    logits = logits[:n]
    if bias is not None:
        logits = logits + bias.to(logits)
    if shape.scale != 1.0:
        logits = logits * shape.scale
    return logits if shape.softcap is None else torch.tanh(logits / shape.softcap) * shape.softcap


class _TokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, shape: HeadShape
    ) -> tuple[Tensor, Tensor | None]:
        parts, tops, masses, spreads, kept = [], [], [], [], list[Tensor]()
        for chunk in chunks(len(targets), weight.shape[0]):
            logits = logits_of(hidden[chunk], weight, bias, shape)
            top = logits.amax(-1)
            logits = logits.sub_(top[:, None])
            label = logits.gather(1, targets[chunk, None]).squeeze(1)
            p = logits.exp() if ctx.needs_input_grad[0] else logits.exp_()
            mass = p.sum(-1)
            parts.append(label - mass.log())
            tops.append(top)
            masses.append(mass)
            if ctx.needs_input_grad[0]:
                spreads.append(_spread(logits, top, p, mass, bias is not None))
                if shape.softcap is None and sum(map(Tensor.numel, kept)) + p.numel() <= KEPT_ELEMENTS:
                    kept.append(p)
        ctx.save_for_backward(hidden, weight, bias, targets, torch.cat(tops), torch.cat(masses))
        ctx.shape, ctx.kept = shape, kept
        found = torch.cat(spreads, 1) if spreads else None
        if found is not None:
            ctx.mark_non_differentiable(found)
        return torch.cat(parts), found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gradient = gradients[0]
        hidden, weight, bias, targets, tops, masses = ctx.saved_tensors
        kept, ctx.kept = ctx.kept, []
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        d_hidden = torch.empty_like(hidden) if wants_hidden else None
        d_weight = torch.zeros_like(weight, dtype=gradient.dtype) if wants_weight else None
        d_bias = torch.zeros_like(bias, dtype=gradient.dtype) if wants_bias else None
        for n, chunk in enumerate(chunks(len(targets), weight.shape[0])):
            if n < len(kept):
                p, slope = kept[n], ctx.shape.scale
            else:
                logits = logits_of(hidden[chunk], weight, bias, ctx.shape)
                slope = ctx.shape.slope(logits)
                p = logits.sub_(tops[chunk, None]).exp_()
            d_logits = _d_logits(p, masses[chunk], targets[chunk], gradient[chunk], slope)
            if d_hidden is not None:
                d_hidden[chunk] = product(d_logits, weight, hidden.dtype)
            if d_weight is not None:
                d_weight += product(d_logits.T, hidden[chunk], d_weight.dtype)
            if d_bias is not None:
                d_bias += d_logits.sum(0)
        return (
            d_hidden,
            None if d_weight is None else d_weight.to(weight.dtype),
            None if d_bias is None else d_bias.to(bias.dtype),
            None,
            None,
        )


def _d_logits(p: Tensor, mass: Tensor, targets: Tensor, gradient: Tensor, slope: Tensor | float) -> Tensor:
    """[n, V] gradient of the raw matrix product: gradient * (one-hot - p / mass) * slope. Overwrites `p`."""
    return bent(p.mul_((-gradient / mass)[:, None]).scatter_add_(1, targets[:, None], gradient[:, None]), slope)


def bent(d: Tensor, slope: Tensor | float) -> Tensor:
    """`d` times the slope of the logits, in place; not touched where the slope is 1."""
    return d if isinstance(slope, float) and slope == 1.0 else d.mul_(slope)


def product(d_logits: Tensor, other: Tensor, dtype: torch.dtype) -> Tensor:
    """d_logits @ other; on a GPU in the dtype of `other` with fp32 sums, elsewhere in fp32."""
    if other.dtype == d_logits.dtype:
        return d_logits @ other
    if other.is_cuda:
        return torch.mm(d_logits.to(other.dtype), other, out_dtype=torch.float32).to(dtype)
    return (d_logits @ other.to(d_logits.dtype)).to(dtype)


def _spread(logits: Tensor, top: Tensor, p: Tensor, mass: Tensor, excluding: bool) -> Tensor:
    """[2, n] mean logit over the vocabulary and entropy (nats).

    `logits` [n, V] less their largest `top` [n], `p` [n, V] their exponentials, `mass` [n] the sum of these;
    `excluding`: whether tokens may be excluded (-inf). Overwrites `logits`.
    """
    mean = logits.mean(-1) + top
    if excluding:
        logits.clamp_(min=-1e4)  # finite, so that 0 * log 0 stays 0
    return torch.stack([mean, mass.log() - torch.linalg.vecdot(p, logits) / mass])


def logps_of_targets(hidden: Tensor, head: nn.Linear, targets: Tensor, shape: HeadShape) -> Tensor:
    """[S] fp32 log-probs (nats) of `targets` [S] given the hidden states [S, D] that predict them."""
    return scores_of_targets(hidden, head, targets, shape)[0]


def scores_of_targets(
    hidden: Tensor, head: nn.Linear, targets: Tensor, shape: HeadShape
) -> tuple[Tensor, Tensor | None]:
    """Log-probs of `targets`, and [2, S] mean logit and entropy where there is a gradient to train with, else None."""
    if len(targets) == 0:
        return hidden.new_zeros(0, dtype=torch.float32) + hidden.sum() * 0, None
    logps, spread = _TokenLogps.apply(hidden, head.weight, head.bias, targets, shape)
    return logps, spread
