"""Attention over rows that lie behind one another, each a prompt and its completions, on a CPU.

With a mask, attention computes the scores that it then throws away: more than half of a pair's, and nearly all between
rows. Here each completion looks at its prompt and itself alone, in the kernel that PyTorch has for the CPU, so that a
row's bits do not depend on its company. H heads, W places of all rows together, E dimensions of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "raypo_branches"
_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True)
class Part:
    """Some places of a row that look at its prompt and at themselves.

    `own` are their places; `looked_at` those they look at, in order; `mask` [own, looked_at] is added to their scores,
    None where plain causal attention is right.
    """

    own: slice
    looked_at: tuple[slice, ...]
    mask: Tensor | None

    def of(self, states: Tensor) -> Tensor:
        """[1, H, places looked at, E] of `states` [1, H, W, E]."""
        parts = [states[:, :, places] for places in self.looked_at]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


def parts_of(spans: Sequence[Sequence[int]], dtype: torch.dtype) -> tuple[Part, ...]:
    """All parts of some rows; `spans` holds for each the lengths of its prompt and of its completions, in order."""
    parts, end = [], 0
    for prompt, first, *others in spans:
        asked = slice(end, end + prompt)
        own, end = slice(end, end + prompt + first), end + prompt + first
        parts.append(Part(own, (own,), None))
        for n in others:
            own, end = slice(end, end + n), end + n
            mask = torch.full((n, prompt + n), -torch.inf, dtype=dtype).triu_(prompt + 1)
            parts.append(Part(own, (asked, own), mask))
    return tuple(parts)


def mask_of(spans: Sequence[Sequence[int]], dtype: torch.dtype) -> Tensor:
    """[1, 1, W, W] what a model passes on to attention for joined rows: their parts. By itself it forbids nothing."""
    width = sum(map(sum, spans))
    mask: Any = torch.ones((1, 1, 1, 1), dtype=torch.bool).expand(1, 1, width, width)
    mask.parts = parts_of(spans, dtype)
    joined: Tensor = mask
    return joined


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, parts: tuple[Part, ...], scale: float | None) -> Tensor:
        out, sums = torch.zeros_like(q), []
        for part in parts:
            where = (slice(None), slice(None), part.own)
            out[where], total = _forward(
                q[where], part.of(k), part.of(v), 0.0, part.mask is None, attn_mask=part.mask, scale=scale
            )
            sums.append(total)
        ctx.save_for_backward(q, k, v, out, *sums)
        ctx.parts, ctx.scale = parts, scale
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, *sums = ctx.saved_tensors
        d_q, d_k, d_v = (torch.zeros_like(x) for x in (q, k, v))
        for part, total in zip(ctx.parts, sums, strict=True):
            where = (slice(None), slice(None), part.own)
            states = (gradients[0][where], q[where], part.of(k), part.of(v), out[where], total)
            d_q[where], *found = _backward(*states, 0.0, part.mask is None, attn_mask=part.mask, scale=ctx.scale)
            for whole, some in zip((d_k, d_v), found, strict=True):
                lengths = [places.stop - places.start for places in part.looked_at]
                for places, d in zip(part.looked_at, some.split(lengths, 2), strict=True):
                    whole[:, :, places] += d
        return d_q, d_k, d_v, None, None


def attention(q: Tensor, k: Tensor, v: Tensor, parts: tuple[Part, ...], scale: float | None = None) -> Tensor:
    """[1, H, W, E]; `q`, `k`, `v` [1, H, W, E]; scores are multiplied by `scale`, else by E^-1/2."""
    out: Tensor = _Attention.apply(q, k, v, parts, scale)
    return out


def set_up(lm: PreTrainedModel) -> None:
    """Have a model that uses SDPA call it from here, unless its attention is code of its own (Falcon)."""
    if lm.config._attn_implementation == "sdpa" and lm._can_set_attn_implementation():
        lm.set_attn_implementation(NAME)


def _for_hugging_face(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **words: Any
) -> tuple[Tensor, None]:
    """What a Hugging Face model calls: SDPA, unless its mask is one of `mask_of` and it asks for nothing else."""
    parts = getattr(attention_mask, "parts", None)
    beyond = ("softcap", "s_aux", "position_bias", "cache")
    if parts is None or words.get("dropout") or any(words.get(name) is not None for name in beyond):
        found: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **words)
        return found
    groups = query.shape[1] // key.shape[1]
    out = attention(query, repeat_kv(key, groups), repeat_kv(value, groups), parts, words.get("scaling"))
    return out.transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register(NAME, _for_hugging_face)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
