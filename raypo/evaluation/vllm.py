"""Sampling with vLLM, for models where it is much faster: the same prompts, settings and answers' form as `sampling`.

vLLM reads weights from a folder, so an engine answers for one checkpoint. Its random numbers are its own: a seed for
each prompt's content keeps an answer independent of its neighbours, but the two engines draw different answers, and a
study uses one of them throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raypo.data.records import Text
from raypo.errors import StudyError
from raypo.evaluation.sampling import Completion, Sampling, completion, prepared, stream_seeds


def open_engine(folder: str | Path, **options: Any) -> Any:
    """A vLLM engine for the model in a folder; `options` are those of `vllm.LLM`. Raises StudyError without vLLM."""
    try:
        from vllm import LLM
    except ImportError as error:
        raise StudyError("sampling: the engine vllm is not installed; pip install 'raypo[vllm]'") from error
    return LLM(model=str(folder), **options)


def sample_with_vllm(
    engine: Any,
    tokenizer: Any,
    prompts: Sequence[Text],
    sampling: Sampling,
    stops: frozenset[int],
    *,
    chat_template: str | None = None,
) -> list[Completion]:
    """Sample one completion for each prompt, in order; `stops` are the ids that end an answer (`end_of_turn`)."""
    from vllm import SamplingParams

    ids = prepared(tokenizer, prompts, sampling, chat_template)
    params = [
        SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_new_tokens,
            seed=seed % 2**31,
            stop_token_ids=sorted(stops),
        )
        for seed in stream_seeds(prompts, sampling)
    ]
    outputs = engine.generate([{"prompt_token_ids": row} for row in ids], sampling_params=params, use_tqdm=False)
    drawn = [_with_end(output.outputs[0], stops) for output in outputs]
    return [
        completion(p, i, d, n, stops, tokenizer) for n, (p, i, d) in enumerate(zip(prompts, ids, drawn, strict=True))
    ]


def _with_end(output: Any, stops: frozenset[int]) -> list[int]:
    """The ids drawn, with the end of turn even where vLLM leaves it out."""
    tokens = list(output.token_ids)
    if output.finish_reason != "stop" or (tokens[-1:] and tokens[-1] in stops):
        return tokens
    return [*tokens, output.stop_reason if isinstance(output.stop_reason, int) else min(stops)]
