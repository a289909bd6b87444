"""Instructions of the generated task: text <-> meaning, and every instruction there is, split four ways."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations, product
from typing import Literal, get_args

from raypo.quickstart.vocabulary import CATEGORIES, LARGEST_NUMBER, LETTERS, NOUNS, SHOUTED

Split = Literal["train", "heldout", "eval", "confirm"]
SPLITS: tuple[Split, ...] = get_args(Split)
SHARES = (10, 2, 4, 4)
"""Twentieths of all instructions that each split holds; a hash of the text decides."""
FAMILIES = ("list", "count", "say", "reverse")


@dataclass(frozen=True)
class Instruction:
    """What a prompt asks for: for each place of the answer, the words that may stand there.

    In `list` answers the places of one category share their words and no word may come twice; elsewhere each place
    allows exactly one word.
    """

    text: str
    places: tuple[tuple[str, ...], ...]
    distinct: bool

    @property
    def family(self) -> str:
        return self.text.split(maxsplit=1)[0]


def parse(prompt: str) -> Instruction | None:
    """The instruction a prompt states, None when it states none of the four families."""
    text = prompt.strip()
    for pattern, read in _READERS:
        if (match := re.fullmatch(pattern, text)) and (places := read(*match.groups())):
            return Instruction(text, places, distinct=text.startswith("list"))
    return None


def every(split: Split) -> dict[str, tuple[str, ...]]:
    """All prompts of a split by family, in a fixed order; each ends in a line break, and no two splits share one."""
    return _all_splits()[split]


def _read_list(*counts_and_names: str | None) -> tuple[tuple[str, ...], ...]:
    counts, names = counts_and_names[::2], counts_and_names[1::2]
    return tuple(CATEGORIES[n] for count, n in zip(counts, names, strict=True) if n for _ in range(int(count or 0)))


def _read_count(first: str, last: str) -> tuple[tuple[str, ...], ...]:
    return tuple((str(number),) for number in range(int(first), int(last) + 1))


def _read_say(first: str, second: str | None, times: str, capitals: str | None) -> tuple[tuple[str, ...], ...]:
    spoken = [word.upper() if capitals else word for word in (first, second) if word]
    return tuple((word,) for word in spoken * int(times))


def _read_reverse(letters: str) -> tuple[tuple[str, ...], ...]:
    return tuple((letter,) for letter in reversed(letters.split()))


_NAME = "(" + "|".join(CATEGORIES) + ")"
_READERS = (
    (rf"list ([1-9]) {_NAME}(?: and ([1-9]) {_NAME})?", _read_list),
    (r"count from (\d+) to (\d+)", _read_count),
    (r"say (\w+)(?: then (\w+))? ([1-9]) times( in capitals)?", _read_say),
    (r"reverse ((?:[a-h] )+[a-h])", _read_reverse),
)


def _texts() -> Iterator[str]:
    for count, name in product(range(2, 6), CATEGORIES):
        yield f"list {count} {name}"
    for (first, second), many, more in product(permutations(CATEGORIES, 2), (1, 2, 3), (1, 2, 3)):
        yield f"list {many} {first} and {more} {second}"
    for start, further in product(range(1, LARGEST_NUMBER), range(2, 8)):
        if start + further <= LARGEST_NUMBER:
            yield f"count from {start} to {start + further}"
    for word, times in product(NOUNS, range(2, 6)):
        yield f"say {word} {times} times"
    for word, times in product(SHOUTED, range(2, 6)):
        yield f"say {word} {times} times in capitals"
    for first, second in permutations(NOUNS[::4], 2):
        yield f"say {first} then {second} 2 times"
    for length in (3, 4):
        for letters in permutations(LETTERS, length):
            yield f"reverse {' '.join(letters)}"


def split_of(text: str) -> Split:
    """The split an instruction belongs to, by a hash of its text: the same on every machine and for ever."""
    twentieth = hashlib.sha256(text.encode()).digest()[0] * 20 // 256
    bounds = [sum(SHARES[: index + 1]) for index in range(len(SHARES))]
    return next(split for split, bound in zip(SPLITS, bounds, strict=True) if twentieth < bound)


@lru_cache(maxsize=1)
def _all_splits() -> dict[Split, dict[str, tuple[str, ...]]]:
    found: dict[Split, dict[str, list[str]]] = {split: {family: [] for family in FAMILIES} for split in SPLITS}
    for text in _texts():
        found[split_of(text)][text.split(maxsplit=1)[0]].append(text + "\n")
    return {split: {family: tuple(prompts) for family, prompts in by.items()} for split, by in found.items()}
