"""Where an answer ends, and a prompt as a judge reads it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from raypo.data.records import Text
from raypo.data.rendering import template_of

PROBE = "raypo"


def end_of_turn(model: Any, tokenizer: Any, chat_template: str | None = None) -> frozenset[int]:
    """Ids that end an answer: end of text, the model's own list, and what the chat template puts after an answer.

    `chat_template` is the study's, as in tokenisation for training.
    """
    stops = set() if tokenizer.eos_token_id is None else {tokenizer.eos_token_id}
    own = model.generation_config.eos_token_id if model.can_generate() else None
    stops.update(own if isinstance(own, Collection) else [] if own is None else [own])
    template = template_of(tokenizer, chat_template)
    if template:
        stops.update(_template_end(tokenizer, template))
    return frozenset(stops)


def _template_end(tokenizer: Any, template: str) -> list[int]:
    """The first special token that the chat template writes after an assistant's words, if there is one."""
    turns = [{"role": "user", "content": PROBE}, {"role": "assistant", "content": PROBE}]
    text = str(tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False))
    after = tokenizer(text.rpartition(PROBE)[2], add_special_tokens=False)["input_ids"]
    return [i for i in after if i in tokenizer.all_special_ids][:1]


def as_text(prompt: Text) -> str:
    """A prompt as a person would read it, whoever the reader is."""
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(f"{str(m['role']).capitalize()}: {m['content']}" for m in prompt)
