"""What one row of preference data means, whatever file it came from.

A text is a plain string or a conversation: a tuple of {"role": ..., "content": ...} messages. Records are frozen and
hold nothing but their content, so that equal rows have equal hashes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

Message = Mapping[str, Any]
Text = str | tuple[Message, ...]
Kind = Literal["pairs", "unpaired", "ranked", "completions"]

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
_TURN = re.compile(r"\n\n(Human|Assistant):")


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt, the first preferred.

    Scores are in the data set's own unit (nan = none); `*_model` names the answers' author. `final` is False where
    the answers are steps in the middle of a solution, after which nothing ends. `stage` orders a curriculum.
    """

    prompt: Text
    chosen: Text
    rejected: Text
    chosen_score: float = math.nan
    rejected_score: float = math.nan
    chosen_model: str = ""
    rejected_model: str = ""
    final: bool = True
    stage: int = 0
    source: str = ""

    @property
    def completions(self) -> tuple[Text, ...]:
        return (self.chosen, self.rejected)

    @property
    def scores(self) -> tuple[float, ...]:
        return (self.chosen_score, self.rejected_score)

    @property
    def margin(self) -> float:
        """Score of the chosen minus score of the rejected answer; nan where the data has no scores."""
        return self.chosen_score - self.rejected_score


@dataclass(frozen=True)
class Labelled:
    """One answer with a thumbs-up or thumbs-down."""

    prompt: Text
    completion: Text
    desirable: bool
    score: float = math.nan
    model: str = ""
    final: bool = True
    stage: int = 0
    source: str = ""

    @property
    def completions(self) -> tuple[Text, ...]:
        return (self.completion,)

    @property
    def scores(self) -> tuple[float, ...]:
        return (self.score,)


@dataclass(frozen=True)
class Ranking:
    """K >= 2 answers to one prompt with a score each; higher is better, equal scores are ties."""

    prompt: Text
    completions: tuple[Text, ...]
    scores: tuple[float, ...]
    models: tuple[str, ...] = ()
    final: bool = True
    stage: int = 0
    source: str = ""


@dataclass(frozen=True)
class Demonstration:
    """One answer to imitate."""

    prompt: Text
    completion: Text
    score: float = math.nan
    model: str = ""
    final: bool = True
    stage: int = 0
    source: str = ""

    @property
    def completions(self) -> tuple[Text, ...]:
        return (self.completion,)

    @property
    def scores(self) -> tuple[float, ...]:
        return (self.score,)


Record = Pair | Labelled | Ranking | Demonstration

KINDS: dict[type, Kind] = {Pair: "pairs", Labelled: "unpaired", Ranking: "ranked", Demonstration: "completions"}


def content(record: Record) -> dict[str, Any]:
    """What a record says, as json-able data: everything but where it came from."""
    return {"kind": KINDS[type(record)]} | {
        f.name: getattr(record, f.name) for f in fields(record) if f.name != "source"
    }


def messages(items: Iterable[Message]) -> tuple[Message, ...]:
    """A conversation from any iterable of messages."""
    return tuple(dict(item) for item in items)


def is_transcript(text: Text) -> bool:
    """Whether a text is a dialogue written with Human and Assistant turns."""
    return isinstance(text, str) and text.startswith(HUMAN)


def as_messages(text: Text) -> tuple[Message, ...]:
    """A conversation from a prompt: transcripts are taken apart turn by turn, other strings are one user turn."""
    if not isinstance(text, str):
        return text
    if not is_transcript(text):
        return ({"role": "user", "content": text},)
    _, *parts = _TURN.split(text)
    turns = zip(parts[::2], parts[1::2], strict=True)
    roles = {"Human": "user", "Assistant": "assistant"}
    return tuple({"role": roles[speaker], "content": said.strip()} for speaker, said in turns if said.strip())


def as_answer(text: Text, prompt: Text) -> tuple[Message, ...]:
    """A conversation from an answer: one assistant turn, or several where a transcript goes on after the first."""
    if not isinstance(text, str):
        return text
    if is_transcript(prompt) and HUMAN in text:
        return as_messages(f"{HUMAN} -{ASSISTANT}{text}")[1:]
    return ({"role": "assistant", "content": text.strip() if is_transcript(prompt) else text},)


def is_blank(text: Text) -> bool:
    """Whether a text says nothing: no characters but space, or no message with content."""
    if isinstance(text, str):
        return not text.strip()
    return not any(str(m.get("content") or "").strip() or m.get("tool_calls") for m in text)


def characters(text: Text) -> int:
    """Length of a text in characters, roles and markup apart."""
    return len(text) if isinstance(text, str) else sum(len(str(m.get("content") or "")) for m in text)


def plain(text: Text) -> str:
    """A text as one string for reading, matching and embedding; a conversation gives its contents line by line."""
    return text if isinstance(text, str) else "\n".join(str(m.get("content") or "") for m in text)


def common_prefix(*sequences: Sequence[Any]) -> int:
    """Length of the longest common prefix of several sequences."""
    shortest = min(len(s) for s in sequences)
    first, *others = sequences
    for i in range(shortest):
        if any(other[i] != first[i] for other in others):
            return i
    return shortest


def word_boundary(text: str, end: int) -> int:
    """Largest cut at most `end` that splits no word; space belongs to what follows."""
    if end < len(text) and not text[end].isspace():
        while end > 0 and not text[end - 1].isspace():
            end -= 1
    while end > 0 and text[end - 1] == " ":
        end -= 1
    return end
