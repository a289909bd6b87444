"""Records -> tokens: prompt and answer are tokenised as one text, so that merges at the boundary are the real ones.

The boundary is the longest common prefix of the tokens of the prompt and of every prompt + answer of the example;
a token that merges across it belongs to the answer. BOS stands once, at the start; the end of sequence or turn
stays unless the answer was cut, and a cut answer never gets one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raypo.data.records import KINDS, Kind, Labelled, Record, Text
from raypo.data.rendering import TEMPLATES, Renderer
from raypo.data.rendering import Sequence as Rendered
from raypo.data.tokens import TokenSet
from raypo.data.truncation import Limits, kept_prompt
from raypo.errors import DataError

CHUNK = 1024


@dataclass(frozen=True)
class Tokenised:
    """One sequence: ids int32 [n], unit int16 [n] (-1 = not scored), prompt length in tokens."""

    ids: np.ndarray
    unit: np.ndarray
    prompt: int


def tokenise(records: Sequence[Record], tokenizer: Any, limits: Limits, chat_template: str | None = None) -> TokenSet:
    """Tokenise records of one kind.

    `chat_template`: None (conversations use the tokenizer's own, strings stay plain), "default" (the tokenizer's own
    for strings too) or a Jinja template. Raises DataError where nothing is left.
    """
    kind = _kind(records)
    renderer = Renderer(tokenizer, chat_template)
    encoder = Encoder(tokenizer)
    report: Counter[str] = Counter(records=len(records))
    kept: list[tuple[int, list[Tokenised]]] = []
    for start in range(0, len(records), CHUNK):
        chunk = records[start : start + CHUNK]
        rendered = [renderer.sequences(record) for record in chunk]
        encoder.read(text for example in rendered for sequence in example for text in _prefixes(sequence))
        for i, example in enumerate(rendered):
            cut = _truncate(_boundaries(example, encoder, report), encoder, limits, report)
            if kind == "pairs" and cut and np.array_equal(cut[0].ids, cut[1].ids):
                report["dropped/equal_answers"] += 1
            elif cut:
                kept.append((start + i, cut))
    if not kept:
        raise DataError(f"data: nothing is left of {len(records)} records after tokenisation; {dict(report)}")
    return _pack(kind, records, kept, report)


class Encoder:
    """Token ids of texts, encoded in batches; special tokens that the tokenizer would add are left to the caller."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.bos: list[int] = _leading_specials(tokenizer)
        self.eos: int | None = tokenizer.eos_token_id
        self._known: dict[str, np.ndarray] = {}

    def read(self, texts: Iterator[str]) -> None:
        """Encode these texts and forget earlier ones."""
        wanted = list(dict.fromkeys(texts))
        ids = self.tokenizer(wanted, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        self._known = {text: np.asarray(row, np.int32) for text, row in zip(wanted, ids, strict=True)}

    def __getitem__(self, text: str) -> np.ndarray:
        return self._known[text]


def encode_prompt(tokenizer: Any, prompt: Text, chat_template: str | None = None) -> list[int]:
    """Ids of a prompt as in training, ready for sampling: BOS once, then the template's opening of an answer."""
    sequence = Renderer(tokenizer, chat_template).prompt(prompt)
    encoder = Encoder(tokenizer)
    encoder.read(_prefixes(sequence))
    ids = encoder[sequence.text]
    return _opening(sequence, ids, len(ids), encoder) + [int(i) for i in ids]


def exported_template(tokenizer: Any, chat_template: str) -> str:
    """The template by which a tokenizer itself writes prompts as training did, BOS included."""
    text = TEMPLATES.get(chat_template, chat_template)
    leading = tokenizer.convert_ids_to_tokens(_leading_specials(tokenizer)) if text in TEMPLATES.values() else ()
    return "".join(leading) + text


def _kind(records: Sequence[Record]) -> Kind:
    kinds = sorted({KINDS[type(record)] for record in records})
    if len(kinds) != 1:
        raise DataError(f"data: tokenisation needs records of one kind, got {kinds or 'none at all'}")
    return kinds[0]


def _leading_specials(tokenizer: Any) -> list[int]:
    """What the tokenizer itself puts before a text (BOS, or nothing)."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a", add_special_tokens=True)["input_ids"]
    starts = [i for i in range(len(full) - len(bare) + 1) if full[i : i + len(bare)] == bare]
    return list(full[: starts[0]]) if starts and bare else []


def _prefixes(sequence: Rendered) -> Iterator[str]:
    text = ""
    for piece in sequence.pieces:
        text += piece.text
        yield text


def _opening(sequence: Rendered, ids: np.ndarray, shared: int, encoder: Encoder) -> list[int]:
    """Tokens to put before a text: BOS where the tokenizer wants one and neither text nor template has written it.

    Where the prompt leaves no token of its own, something must stand before the first scored one.
    """
    if not sequence.templated and encoder.bos and list(ids[: len(encoder.bos)]) != encoder.bos:
        return encoder.bos
    if shared > 0:
        return []
    start = encoder.tokenizer.bos_token_id if encoder.tokenizer.bos_token_id is not None else encoder.eos
    if start is None:
        raise DataError("data: an empty prompt needs a BOS or EOS token to begin with, and the tokenizer has neither")
    return [start]


def _boundaries(example: tuple[Rendered, ...], encoder: Encoder, report: Counter[str]) -> list[Tokenised]:
    """Join the pieces of an example's sequences, with one prompt length and numbered scored tokens."""
    prefixes = [[encoder[text] for text in _prefixes(sequence)] for sequence in example]
    shared = _common_length([ids for rows in prefixes for ids in (rows[0], rows[-1])])
    same_prompt = len({sequence.pieces[0].text for sequence in example}) == 1
    report["boundary_moved"] += same_prompt and shared < len(prefixes[0][0])
    joined = []
    for sequence, rows in zip(example, prefixes, strict=True):
        full = rows[-1]
        ends = [_common_length([row, full]) for row in rows]
        unit = np.full(len(full), -1, np.int16)
        for piece, begin, end in zip(sequence.pieces[1:], ends, ends[1:], strict=False):
            unit[begin:end] = piece.unit
        if same_prompt:
            unit[shared : ends[0]] = 0
        joined.append(_frame(sequence, full, unit, shared, encoder))
    return joined


def _frame(sequence: Rendered, ids: np.ndarray, unit: np.ndarray, shared: int, encoder: Encoder) -> Tokenised:
    """Add what stands before and after the text: BOS, and the end of sequence where none is written."""
    opening = _opening(sequence, ids, shared, encoder)
    ended = encoder.eos is None or list(ids[-1:]) == [encoder.eos]
    closing = [encoder.eos] if sequence.ends and not ended else []
    return Tokenised(
        np.concatenate([opening, ids, closing]).astype(np.int32),
        np.concatenate([[-1] * len(opening), unit, [unit.max(initial=0)] * len(closing)]).astype(np.int16),
        len(opening) + shared,
    )


def _truncate(example: list[Tokenised], encoder: Encoder, limits: Limits, report: Counter[str]) -> list[Tokenised]:
    """Cut an example to its limits, all its sequences at the same prompt; empty if it is dropped."""
    prompt = example[0].prompt
    kept = limits.kept(prompt, max(len(sequence.ids) for sequence in example) - prompt)
    if isinstance(kept, str):
        report[f"dropped/{kept}"] += 1
        return []
    keep, room = kept
    positions = np.arange(prompt)
    if keep < prompt:
        report[f"truncated/{limits.truncation}"] += 1
        bos = encoder.tokenizer.bos_token_id
        positions = kept_prompt(example[0].ids[:prompt], keep, limits.truncation, bos)
    cut = []
    for sequence in example:
        report["truncated/completion_end"] += len(sequence.ids) - prompt > room
        where = np.concatenate([positions, np.arange(prompt, min(len(sequence.ids), prompt + room))])
        cut.append(Tokenised(sequence.ids[where], sequence.unit[where], keep))
    if all((sequence.unit >= 0).any() for sequence in cut):
        return cut
    report["dropped/nothing_to_score"] += 1
    return []


def _common_length(rows: list[np.ndarray]) -> int:
    """Length of the longest common prefix of token rows."""
    size = min(len(row) for row in rows)
    equal = np.ones(size, bool)
    for row in rows[1:]:
        equal &= row[:size] == rows[0][:size]
    return size if equal.all() else int(equal.argmin())


def _pack(
    kind: Kind, records: Sequence[Record], kept: list[tuple[int, list[Tokenised]]], report: Counter[str]
) -> TokenSet:
    sequences = [sequence for _, example in kept for sequence in example]
    sizes = np.array([len(example) for _, example in kept])
    offsets = np.concatenate([[0], np.cumsum([len(sequence.ids) for sequence in sequences])])
    unit = np.concatenate([sequence.unit for sequence in sequences])
    first = np.cumsum(sizes) - sizes
    columns = np.arange(sizes.max())
    examples = np.where(columns < sizes[:, None], first[:, None] + columns, -1)
    chosen = [records[i] for i, _ in kept]
    report |= {"examples": len(kept), "sequences": len(sequences), "tokens": int(offsets[-1])}
    return TokenSet(
        kind=kind,
        ids=np.concatenate([sequence.ids for sequence in sequences]),
        offsets=offsets.astype(np.int64),
        prompt_lengths=np.array([sequence.prompt for sequence in sequences], np.int32),
        mask=unit >= 0,
        unit=unit if unit.max() > 0 else None,
        score=np.array([score for record in chosen for score in record.scores], np.float32),
        examples=examples.astype(np.int32),
        record=np.array([i for i, _ in kept], np.int32),
        stage=np.array([record.stage for record in chosen], np.int16),
        desirable=np.array([r.desirable for r in chosen if isinstance(r, Labelled)]) if kind == "unpaired" else None,
        report={name: int(count) for name, count in sorted(report.items()) if count},
    )
