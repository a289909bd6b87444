"""Prompt embeddings for methods that compare prompts: a sentence encoder by path, or words hashed into a vector.

The hashing encoder needs no model and knows no meaning: prompts are near when they share words and word pairs. It is
there for tests and the quickstart; real studies give `data.encoder` the folder of a sentence encoder.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Sequence

import numpy as np

from raypo.data.records import Text, plain
from raypo.errors import ModelError

HASHING = "hashing"
DIMENSIONS = 256


def embed(prompts: Sequence[Text], encoder: str = HASHING) -> np.ndarray:
    """float32 [N, D], rows of length 1.

    Raises:
        ModelError: the encoder's folder cannot be loaded, or sentence-transformers is not installed.
    """
    texts = [plain(prompt) for prompt in prompts]
    found = np.stack([_hashed(text) for text in texts]) if encoder == HASHING else _encoded(texts, encoder)
    norms = np.linalg.norm(found, axis=1, keepdims=True)
    return (found / np.maximum(norms, 1e-12)).astype(np.float32)


def _hashed(text: str) -> np.ndarray:
    """Signed counts of words and neighbouring words."""
    words = re.findall(r"\w+", text.casefold()) or [text]
    vector = np.zeros(DIMENSIONS)
    for item in [*words, *map(" ".join, itertools.pairwise(words))]:
        code = int.from_bytes(hashlib.blake2b(item.encode(), digest_size=8).digest(), "little")
        vector[code % DIMENSIONS] += 1 if code >> 63 else -1
    return vector if vector.any() else np.eye(DIMENSIONS)[0]


def _encoded(texts: list[str], path: str) -> np.ndarray:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise ModelError("data.encoder: needs sentence-transformers; pip install 'raypo[embeddings]'") from None
    try:
        model = SentenceTransformer(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"data.encoder: {path!r} is no sentence encoder: {str(error).splitlines()[0]}") from None
    return np.asarray(model.encode(texts, convert_to_numpy=True), dtype=np.float64)
