"""Prompts as a model reads them before it answers, and as a judge reads them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from raypo.data.records import Text
from raypo.errors import DataError

PROBE = "raypo"


def prompt_ids(prompt: Text, tokenizer: Any) -> list[int]:
    """Token ids that a completion continues: text as it is, messages through the chat template."""
    if isinstance(prompt, str):
        ids = list(tokenizer(prompt)["input_ids"])
        # Some tokenizers close every text; a prompt is not over.
        return ids[:-1] if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id else ids
    return list(tokenizer(templated(prompt, tokenizer), add_special_tokens=False)["input_ids"])


def templated(prompt: Text, tokenizer: Any) -> str:
    """Text of a conversation up to where the assistant speaks next."""
    if isinstance(prompt, str):
        return prompt
    if not tokenizer.chat_template:
        raise DataError("prompts: a conversation needs a chat template, the tokenizer has none; give plain text")
    return str(tokenizer.apply_chat_template([dict(m) for m in prompt], add_generation_prompt=True, tokenize=False))


def end_of_turn(model: Any, tokenizer: Any) -> frozenset[int]:
    """Ids that end an answer: end of text, the model's own list, and what the chat template puts after an answer."""
    stops = set() if tokenizer.eos_token_id is None else {tokenizer.eos_token_id}
    own = model.generation_config.eos_token_id if model.can_generate() else None
    stops.update(own if isinstance(own, Collection) else [] if own is None else [own])
    if tokenizer.chat_template:
        stops.update(_template_end(tokenizer))
    return frozenset(stops)


def _template_end(tokenizer: Any) -> list[int]:
    """The first special token that the chat template writes after an assistant's words, if there is one."""
    turns = [{"role": "user", "content": PROBE}, {"role": "assistant", "content": PROBE}]
    text = str(tokenizer.apply_chat_template(turns, tokenize=False))
    after = tokenizer(text.rpartition(PROBE)[2], add_special_tokens=False)["input_ids"]
    return [i for i in after if i in tokenizer.all_special_ids][:1]


def as_text(prompt: Text) -> str:
    """A prompt as a person would read it, whoever the reader is."""
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(f"{str(m['role']).capitalize()}: {m['content']}" for m in prompt)
