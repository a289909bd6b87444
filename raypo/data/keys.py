"""Keys of the artifacts that data makes: everything the content depends on, and nothing else.

No learning rate, beta, seed of a trial, name or output folder ever enters a key, so all trials of all searches on the
same data and model share one computation.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from raypo.artifacts.hashing import DIGITS, hash_of
from raypo.data.records import Record, content
from raypo.data.rendering import TEMPLATES
from raypo.data.tokens import FORMAT
from raypo.data.truncation import Limits


def hash_records(records: Iterable[Record]) -> str:
    """Hash of what records say, in order; where they came from does not enter."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(hash_of(content(record)).encode())
    return digest.hexdigest()[:DIGITS]


def hash_tokenizer(tokenizer: Any) -> str:
    """Hash of how a tokenizer behaves: vocabulary, merges, normalisation, special tokens and chat template.

    Name, folder and the state that calls leave behind (padding, truncation) do not enter.
    """
    behaviour: dict[str, Any] = {
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "chat_template": tokenizer.chat_template,
    }
    if tokenizer.is_fast:
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
        behaviour["backend"] = {k: v for k, v in backend.items() if k not in ("padding", "truncation")}
    else:
        behaviour |= {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    return hash_of(behaviour)


def tokens_key(
    records: Iterable[Record], tokenizer: Any, limits: Limits, chat_template: str | None = None
) -> dict[str, Any]:
    """Key of tokenised data."""
    return {
        "format": FORMAT,
        "records": hash_records(records),
        "tokenizer": hash_tokenizer(tokenizer),
        "chat_template": TEMPLATES.get(chat_template or "", chat_template),
        **asdict(limits),
    }


def logps_key(tokens: dict[str, Any], model: str, dtype: str, **others: Any) -> dict[str, Any]:
    """Key of a frozen policy's token log-probs on tokenised data.

    `tokens` is the key of that data, `model` a content hash of the policy's weights (its role, reference or guide,
    does not matter), `dtype` the precision it ran in; `others` whatever else changes the numbers.
    """
    return {"tokens": hash_of(tokens), "model": model, "dtype": dtype, **others}
