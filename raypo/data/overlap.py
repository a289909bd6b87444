"""Evaluation prompts that occur in training: a win rate on them says little."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from raypo.data.records import Text, plain


@dataclass(frozen=True)
class Overlap:
    """`shared` of `evaluation` prompts also stand in training; `examples` shows the first few."""

    shared: int
    evaluation: int
    examples: tuple[str, ...]


def overlap(training: Iterable[Text], evaluation: Iterable[Text]) -> Overlap:
    """Count evaluation prompts whose normalised text is a training prompt's.

    Normalised: letters and digits only, without case and accents' encoding, so that markup and spacing hide nothing.
    """
    known = {normalised(prompt) for prompt in training}
    prompts = list(evaluation)
    shared = [plain(prompt) for prompt in prompts if normalised(prompt) in known]
    return Overlap(len(shared), len(prompts), tuple(shared[:3]))


def normalised(text: Text) -> str:
    """A text's words, lower-case and one space apart."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", plain(text)).casefold()))
