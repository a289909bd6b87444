"""Text of a prompt and its answers, in pieces that say which parts are scored.

Strings stay as they are, conversations go through a chat template. Masks later follow the pieces by position, so
that no token id ever decides what is scored.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jinja2 import TemplateError

from raypo.data.records import ASSISTANT, HUMAN, Message, Record, Text, as_answer, as_messages, is_transcript
from raypo.errors import DataError, nearest

OWN_TEMPLATE, TRANSCRIPT = "default", "transcript"
TEMPLATES = {
    TRANSCRIPT: (
        "{% for m in messages %}"
        "{% if m.role == 'system' %}{{ m.content | trim }}"
        "{% else %}{{ '\n\nHuman: ' if m.role == 'user' else '\n\nAssistant: ' }}{{ m.content | trim }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '\n\nAssistant:' }}{% endif %}"
    )
}
"""Templates by name, for models that bring none; they write no special tokens, so the tokenizer's BOS comes first."""


@dataclass(frozen=True)
class Piece:
    """A stretch of text: unit >= 0 numbers the scored ones (turns of the assistant), -1 is context."""

    text: str
    unit: int = -1


@dataclass(frozen=True)
class Sequence:
    """The pieces of prompt (first) and answer.

    `ends` says whether an end-of-sequence token follows the last piece, `templated` that a chat template had the word
    on special tokens.
    """

    pieces: tuple[Piece, ...]
    ends: bool
    templated: bool

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)


@dataclass(frozen=True)
class Renderer:
    """Renders records for one tokenizer.

    `chat_template` is a Jinja template, "transcript" (Human and Assistant turns), "default" (the tokenizer's own) or
    None. With None only conversations go through the tokenizer's own template and strings stay plain text; with a
    template strings become conversations too.
    """

    tokenizer: Any
    chat_template: str | None = None

    def sequences(self, record: Record) -> tuple[Sequence, ...]:
        """One sequence per answer; all begin with the same prompt piece."""
        try:
            return tuple(self._sequence(record, answer) for answer in record.completions)
        except TemplateError as error:
            raise DataError(
                f"{record.source or 'data'}: the chat template refuses this conversation, {error}"
            ) from error

    def prompt(self, text: Text) -> Sequence:
        """A prompt alone, as the model reads it before it answers."""
        if self._is_plain(text):
            return Sequence((Piece(str(text)),), ends=False, templated=False)
        turns = _turns(text, "prompt")
        goes_on = turns[-1]["role"] == "assistant"
        text = self._render(turns, answering=not goes_on, cut=goes_on)
        return Sequence((Piece(text),), ends=False, templated=self._has_specials)

    def _is_plain(self, *texts: Text) -> bool:
        return self.chat_template is None and all(isinstance(text, str) for text in texts)

    def _sequence(self, record: Record, answer: Text) -> Sequence:
        if self._is_plain(record.prompt, answer):
            return Sequence(_plain_pieces(str(record.prompt), str(answer)), ends=record.final, templated=False)
        return self._conversation(_turns(record.prompt, record.source), as_answer(answer, record.prompt), record)

    def _conversation(self, history: tuple[Message, ...], turns: tuple[Message, ...], record: Record) -> Sequence:
        """Prompt turns, then answer turns of which the assistant's are scored.

        An answer to a prompt that ends with the assistant's words goes on inside that turn.
        """
        goes_on = [turn["role"] for turn in (history[-1], *turns[:1])] == ["assistant"] * 2
        whole = _joined(history, turns) if goes_on else history + turns
        begun = len(whole) - len(turns)
        pieces: list[Piece] = []
        done, ends = "", False
        for i, turn in enumerate(turns):
            if turn["role"] != "assistant":
                continue
            last = i == len(turns) - 1
            text, ends = self._to_end_of_turn(self._render(whole[: begun + i + 1], cut=last and not record.final))
            if goes_on and i == 0:
                before = self._render(history, cut=True)
            else:
                before = _shared(self._render(whole[: begun + i], answering=True), text)
            pieces += [Piece(_rest(before, done, record)), Piece(_rest(text, before, record), len(pieces) // 2)]
            done = text
        if not pieces:
            raise DataError(
                f"{record.source}: the answer has no assistant turn; got roles {[t['role'] for t in turns]}"
            )
        return Sequence(tuple(pieces), ends=record.final and not ends, templated=self._has_specials)

    def _to_end_of_turn(self, text: str) -> tuple[str, bool]:
        """Text up to its end-of-turn token, and whether there is one: a model never samples what follows it."""
        bare = text.rstrip()
        return (bare, True) if bare.endswith(self._specials) else (text, False)

    @cached_property
    def _has_specials(self) -> bool:
        """Whether the template has the word on special tokens: the model's or a user's own, and none of `TEMPLATES`."""
        return TEMPLATES.get(self.chat_template or "", self.chat_template) not in TEMPLATES.values()

    @cached_property
    def _specials(self) -> tuple[str, ...]:
        return tuple({*self.tokenizer.all_special_tokens, *self.tokenizer.get_added_vocab()})

    def _render(self, conversation: tuple[Message, ...], answering: bool = False, cut: bool = False) -> str:
        template = template_of(self.tokenizer, self.chat_template)
        if not template:
            raise DataError(
                "data.chat_template: the data holds conversations and the tokenizer has no chat template; "
                f"give a Jinja template or one of {', '.join(TEMPLATES)}, or choose an instruct model"
            )
        return str(
            self.tokenizer.apply_chat_template(
                [dict(m) for m in conversation],
                chat_template=template,
                tokenize=False,
                add_generation_prompt=answering,
                continue_final_message=cut,
            )
        )


def template_of(tokenizer: Any, chat_template: str | None) -> str | None:
    """The Jinja template behind a study's `data.chat_template`; None where it is the tokenizer's, which has none."""
    named = chat_template or OWN_TEMPLATE
    return tokenizer.chat_template if named == OWN_TEMPLATE else TEMPLATES.get(named, named)


def checked_template(text: str) -> str:
    """A study's `data.chat_template`, as it is.

    Raises:
        DataError: it is no known name and holds no Jinja, so every conversation would be that text; or its Jinja is
            malformed.
    """
    names = (OWN_TEMPLATE, *TEMPLATES)
    if text in names:
        return text
    if "{{" not in text and "{%" not in text:
        hint = nearest(text, names)
        raise DataError(f"got {text!r}; allowed: {', '.join(names)}, or a Jinja template, with {{{{ or {{%{hint}")
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        render_jinja_template([], chat_template=text)  # of no conversation: compiled as the tokenizer will, not filled
    except TemplateError as error:
        raise DataError(f"not a Jinja template: {error}; got {text!r:.200}") from error
    return text


def _turns(prompt: Text, where: str) -> tuple[Message, ...]:
    """The turns of a prompt; a transcript whose turns are all empty has none."""
    turns = as_messages(prompt)
    if not turns:
        raise DataError(
            f"{where or 'data'}: a prompt for a chat template needs a turn that says something, got {prompt!r:.80}; "
            "leave the row out"
        )
    return turns


def _joined(history: tuple[Message, ...], turns: tuple[Message, ...]) -> tuple[Message, ...]:
    """History and answer, the answer's first turn within the history's last."""
    begun = history[-1]
    return (*history[:-1], {**begun, "content": str(begun["content"]) + str(turns[0]["content"])}, *turns[1:])


def _plain_pieces(prompt: str, answer: str) -> tuple[Piece, ...]:
    """Prompt and answer; an answer that goes on as a transcript is scored in the assistant's turns only."""
    if not (is_transcript(prompt) and HUMAN in answer):
        return Piece(prompt), Piece(answer, 0)
    pieces, unit = [Piece(prompt)], 0
    for i, part in enumerate(answer.split(HUMAN)):
        human, said = ("", part) if i == 0 else [*part.split(ASSISTANT, 1), ""][:2]
        if i > 0:
            opened = ASSISTANT if ASSISTANT in part else ""
            pieces.append(Piece(HUMAN + human + opened))
        if said:
            pieces.append(Piece(said, unit))
            unit += 1
    return tuple(pieces)


def _shared(a: str, b: str) -> str:
    size = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return a[:size]


def _rest(text: str, done: str, record: Record) -> str:
    if not text.startswith(done):
        raise DataError(
            f"{record.source or 'data.chat_template'}: the chat template renders the start of a conversation otherwise "
            f"than the whole (after {_shared(text, done)[-40:]!r}), so turns cannot be told apart; "
            "use a template that only appends"
        )
    return text[len(done) :]
