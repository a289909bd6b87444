"""A tiny model folder and token sets for the tests of training; no tokenizer needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from raypo.data.tokens import TokenSet

VOCABULARY = 200


def build_model(folder: Path, *, seed: int = 0, **changes: object) -> str:
    """A Llama of two layers with random weights, large enough that log-probs differ; returns its path."""
    torch.manual_seed(seed)
    settings: dict[str, object] = {
        "hidden_size": 32,
        "intermediate_size": 88,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 1024,
        "initializer_range": 0.2,
        "tie_word_embeddings": False,
    }
    AutoModelForCausalLM.from_config(LlamaConfig(**(settings | changes))).save_pretrained(folder)
    return str(folder)


def token_set(
    kind: str = "pairs", examples: int = 12, *, seed: int = 0, longest: int = 40, holes: bool = False, group: int = 3
) -> TokenSet:
    """Random sequences of 1 to `longest` completion tokens after prompts of 3 to 20, in turns of 8 tokens."""
    rng = np.random.default_rng(seed)
    width = {"pairs": 2, "ranked": group}.get(kind, 1)
    sequences, prompts = [], []
    for _ in range(examples):
        prompt = rng.integers(0, VOCABULARY, rng.integers(3, 21))
        for _ in range(width):
            sequences.append(np.concatenate([prompt, rng.integers(0, VOCABULARY, rng.integers(1, longest + 1))]))
            prompts.append(len(prompt))
    scored = [np.arange(len(s)) >= p for s, p in zip(sequences, prompts, strict=True)]
    if holes:
        scored = [m & ((np.arange(len(m)) % 5 != 0) | (np.arange(len(m)) == len(m) - 1)) for m in scored]
    return TokenSet(
        kind=kind,  # type: ignore[arg-type]
        ids=np.concatenate(sequences).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum([len(s) for s in sequences])]).astype(np.int64),
        prompt_lengths=np.array(prompts, np.int32),
        mask=np.concatenate(scored),
        unit=np.concatenate([np.where(m, np.arange(len(m)) // 8, -1) for m in scored]).astype(np.int16),
        score=_scores(kind, len(sequences), rng),
        examples=np.arange(len(sequences), dtype=np.int32).reshape(examples, width),
        record=np.arange(examples, dtype=np.int32),
        stage=np.zeros(examples, np.int16),
        desirable=rng.random(len(sequences)) < 0.5 if kind == "unpaired" else None,
    )


def _scores(kind: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """Pairs: chosen above rejected; lists: any order; others have none."""
    if kind == "pairs":
        return (np.tile([2.0, 1.0], n // 2) + rng.random(n) / 2).astype(np.float32)
    return rng.normal(size=n).astype(np.float32) if kind == "ranked" else np.full(n, np.nan, np.float32)
