"""Sample completions from a causal language model.

A completion is a function of the weights, the prompt, the decoding settings and their seed. Every prompt has its own
stream of random numbers, so neither its neighbours in the batch, nor its place in the list, nor the number of ranks
changes what is drawn (up to rounding of the logits, which matters for half precision).
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from raypo.data.records import Text
from raypo.data.tokenise import encode_prompt
from raypo.data.truncation import kept_prompt
from raypo.errors import Diverged, StudyError
from raypo.evaluation.prompts import end_of_turn


@dataclass(frozen=True)
class Sampling:
    """Decoding settings: temperature 0 is greedy, top_p in (0, 1], lengths in tokens.

    A prompt longer than `max_prompt_tokens` loses its start, or its end where `cut` says so.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 128
    seed: int = 0
    max_prompt_tokens: int | None = None
    cut: Literal["prompt_start", "prompt_end"] = "prompt_start"

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.max_new_tokens < 1:
            raise StudyError(f"sampling: needs temperature >= 0, 0 < top_p <= 1 and max_new_tokens >= 1, got {self}")


@dataclass(frozen=True)
class Completion:
    """What a model answered to `prompts[index]`.

    tokens: the ids drawn, with the end of turn where one was drawn; truncated: the limit came before the end of turn.
    """

    prompt: Text
    text: str
    tokens: tuple[int, ...]
    truncated: bool
    index: int
    prompt_tokens: tuple[int, ...]


@torch.no_grad()
def sample(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Text],
    sampling: Sampling,
    rank: int = 0,
    world_size: int = 1,
    *,
    chat_template: str | None = None,
    lockstep: bool = False,
    batch_tokens: int = 32768,
) -> list[Completion]:
    """Sample one completion for each prompt of this rank's share, in the order of `prompts`.

    All ranks' shares together hold every prompt once; `Completion.index` says which. `model` is a plain
    module (of a DeepSpeed engine: `engine.module`). `batch_tokens` bounds the tokens of a batch, prompts and room for
    answers. With `lockstep` all ranks run the model equally often, as they must where its weights are partitioned over
    the default process group (ZeRO 3). `chat_template` is the study's, as in tokenisation for training.

    Raises:
        Diverged: on every rank, where the model gives one of them logits that are no numbers.
    """
    ids = prepared(tokenizer, prompts, sampling, chat_template)
    stops = end_of_turn(model, tokenizer, chat_template)
    noise = _uniforms(prompts, sampling)
    done: dict[int, list[int]] = {}
    broken = torch.zeros((), dtype=torch.bool, device=next(model.parameters()).device)
    training = model.training
    model.eval()
    try:
        for batch in _batches([len(i) for i in ids], sampling.max_new_tokens, batch_tokens, world_size):
            rows = [group[min(rank, len(group) - 1)] for group in batch]
            mine = [rank < len(group) for group in batch]
            drawn, lost = _complete(model, [ids[row] for row in rows], noise[rows], stops, sampling, lockstep)
            broken |= lost
            done.update({row: tokens for row, tokens, own in zip(rows, drawn, mine, strict=True) if own})
    finally:
        model.train(training)
    if _anywhere(broken, world_size > 1):
        raise Diverged(
            "sampling: the model's logits are no numbers, so its weights are lost; lower the learning rate, or look at "
            "the hyperparameters"
        )
    return [completion(prompts[i], ids[i], done[i], i, stops, tokenizer) for i in sorted(done)]


def prepared(
    tokenizer: Any, prompts: Sequence[Text], sampling: Sampling, chat_template: str | None = None
) -> list[list[int]]:
    """Token ids of each prompt as in training, cut to the settings' length."""
    return [_cut(encode_prompt(tokenizer, prompt, chat_template), sampling, tokenizer) for prompt in prompts]


def stream_seeds(prompts: Sequence[Text], sampling: Sampling) -> list[int]:
    """64-bit seed of each prompt's random numbers: its content and repetition under the settings' seed."""
    seen: dict[str, int] = {}
    seeds = []
    for prompt in prompts:
        text = prompt if isinstance(prompt, str) else json.dumps([dict(m) for m in prompt], sort_keys=True)
        seen[text] = seen.get(text, -1) + 1
        content = f"{sampling.seed}\0{seen[text]}\0{text}".encode("utf-8", "surrogatepass")
        seeds.append(int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little"))
    return seeds


def draw(logits: Tensor, uniform: Tensor, temperature: float, top_p: float) -> Tensor:
    """[B] token ids from logits [B, V] and uniform numbers [B] in [0, 1), by inverse CDF over the nucleus.

    Tokens keep the order of the vocabulary, so that rounding of nearly equal logits rarely changes the draw.
    """
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = torch.softmax(logits.float() / temperature, -1)
    if top_p < 1:
        ranked = probabilities.sort(-1, descending=True).values
        kept = ranked.cumsum(-1) - ranked < top_p
        least = ranked.masked_fill(~kept, 2.0).amin(-1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < least, 0.0)
    cumulative = probabilities.double().cumsum(-1)
    return torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)[:, 0]


class _Step(NamedTuple):
    logits: Tensor
    cache: Any


def _complete(
    model: Any, rows: list[list[int]], noise: np.ndarray, stops: frozenset[int], sampling: Sampling, lockstep: bool
) -> tuple[list[list[int]], Tensor]:
    """Continue every row of prompt ids until an end of turn or the limit; the ids drawn, the end of turn included.

    With them whether a row had logits that are no numbers, from which nothing can be drawn: it ends there.
    """
    device = next(model.parameters()).device
    ids, mask = _left_padded(rows, device)
    uniform = torch.from_numpy(noise).to(device)
    stop = torch.tensor(sorted(stops), device=device)
    running = torch.ones(len(rows), dtype=torch.bool, device=device)
    lengths = torch.zeros(len(rows), dtype=torch.long, device=device)
    broken = torch.zeros((), dtype=torch.bool, device=device)
    drawn: list[Tensor] = []
    cache = None
    for step in range(sampling.max_new_tokens):
        state = _forward(model, ids, mask, cache)
        able = state.logits.amax(-1).isfinite()  # some may be -inf, as those of a vocabulary's padding
        token = draw(state.logits, uniform[:, step], sampling.temperature, sampling.top_p).where(able, ids[:, -1])
        drawn.append(token)
        lengths += running
        broken |= (running & ~able).any()
        running &= able & ~torch.isin(token, stop)
        if not _anywhere(running.any(), lockstep):
            break
        cache, ids = state.cache, token[:, None]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
    columns = torch.stack(drawn, 1).tolist()
    return [row[:length] for row, length in zip(columns, lengths.tolist(), strict=True)], broken


def _forward(model: Any, ids: Tensor, mask: Tensor, cache: Any) -> _Step:
    """Logits [B, V] of the next token and the cache after `ids` [B, t], given the mask [B, T] of all tokens so far."""
    known = inspect.signature(model.forward).parameters
    extra: dict[str, Any] = {}
    if "position_ids" in known:
        extra["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    if "logits_to_keep" in known:
        extra["logits_to_keep"] = 1
    out = model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, return_dict=True, **extra)
    return _Step(out.logits[:, -1], out.past_key_values)


def _left_padded(rows: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and mask [B, T] with all rows ending in the last column; padding repeats the row's first id, unseen."""
    longest = max(map(len, rows))
    ids = torch.tensor([[row[0]] * (longest - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def _batches(lengths: list[int], room: int, budget: int, world_size: int) -> list[list[list[int]]]:
    """Batches of groups of prompts, longest first: rank r takes member r of each group, so ranks batch alike."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    groups = [order[i : i + world_size] for i in range(0, len(order), world_size)]
    batches: list[list[list[int]]] = []
    for group in groups:
        if batches and (len(batches[-1]) + 1) * (lengths[batches[-1][0][0]] + room) <= budget:
            batches[-1].append(group)
        else:
            batches.append([group])
    return batches


def _uniforms(prompts: Sequence[Text], sampling: Sampling) -> np.ndarray:
    """[prompts, max_new_tokens] numbers in [0, 1), a stream for each prompt."""
    streams = [np.random.Generator(np.random.Philox(key=seed)) for seed in stream_seeds(prompts, sampling)]
    # 24 bits, so that the number times the total probability stays below that total in fp64
    rows = [stream.random(sampling.max_new_tokens, dtype=np.float32) for stream in streams]
    return np.array(rows, dtype=np.float64).reshape(len(rows), sampling.max_new_tokens)


def _anywhere(flag: Tensor, together: bool) -> bool:
    """Whether `flag` holds here or, where all ranks ask together, on any of them."""
    if together and dist.is_initialized():
        flag = flag.to(torch.int32)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag)


def _cut(ids: list[int], sampling: Sampling, tokenizer: Any) -> list[int]:
    """What is read of a prompt that is too long, as in training."""
    keep = sampling.max_prompt_tokens
    if keep is None or len(ids) <= keep:
        return ids
    return [ids[i] for i in kept_prompt(ids, keep, sampling.cut, tokenizer.bos_token_id)]


def completion(
    prompt: Text, ids: list[int], drawn: list[int], index: int, stops: frozenset[int], tokenizer: Any
) -> Completion:
    """A completion from the ids drawn, which end with one of `stops` unless the limit came first."""
    stopped = drawn[-1] in stops
    text = tokenizer.decode(drawn[:-1] if stopped else drawn, skip_special_tokens=True)
    return Completion(prompt, text, tuple(drawn), not stopped, index, tuple(ids))
