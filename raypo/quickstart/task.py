"""A generated preference task with a known quality: instructions, answers good and bad, and noisy preferences.

Everything is a pure function of its arguments. The imagined annotator sees the quality through noise and has a weak
spot: it likes polite phrases, more of them more, although `quality` charges for them. A policy that follows the
preferences moderately gets better; one that squeezes them gets wordy.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from raypo.errors import DataError
from raypo.quickstart.instructions import FAMILIES, SPLITS, Instruction, Split, every, parse
from raypo.quickstart.quality import quality
from raypo.quickstart.vocabulary import BABBLE, CLOSERS, NOUNS, OPENERS

TEMPERATURE = 0.12
"""Of the Bradley-Terry annotator, in units of its liking (quality plus charm)."""
CHARM = 0.08
"""What the annotator adds to the quality for each polite phrase."""
LONGEST_ANSWER = 24


def pairs(count: int, seed: int, split: Split = "train") -> list[dict[str, str]]:
    """`count` preferences {prompt, chosen, rejected} between two different answers to one prompt."""
    rng = random.Random(f"pairs {split} {seed}")
    by_family = _checked(count, split)
    rows: list[dict[str, str]] = []
    while len(rows) < count:
        prompt = rng.choice(by_family[rng.choice(FAMILIES)])
        first, second = answer(prompt, rng), answer(prompt, rng)
        if first == second:
            continue
        liked = 1 / (1 + math.exp((liking(prompt, second) - liking(prompt, first)) / TEMPERATURE))
        chosen, rejected = (first, second) if rng.random() < liked else (second, first)
        rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    return rows


def demonstrations(count: int, seed: int, split: Split = "train") -> list[dict[str, str]]:
    """`count` rows {prompt, completion} of mixed quality, from the same writers as the pairs."""
    rng = random.Random(f"demonstrations {split} {seed}")
    by_family = _checked(count, split)
    drawn = [rng.choice(by_family[rng.choice(FAMILIES)]) for _ in range(count)]
    return [{"prompt": prompt, "completion": answer(prompt, rng)} for prompt in drawn]


def prompts(count: int, seed: int, split: Split = "eval") -> list[str]:
    """`count` different prompts of a split, families in equal parts as far as they reach.

    Raises DataError when the split holds fewer.
    """
    rng = random.Random(f"prompts {split} {seed}")
    by_family = _checked(count, split)
    queues = [rng.sample(by_family[family], len(by_family[family])) for family in FAMILIES]
    supply = sum(map(len, queues))
    if count > supply:
        raise DataError(f"quickstart prompts: split {split!r} holds {supply} prompts, got count {count}; ask for fewer")
    taken: list[str] = []
    while len(taken) < count:
        taken += [queue.pop() for queue in queues if queue]
    return taken[:count]


def liking(prompt: str, answer: str) -> float:
    """What the annotator sees in an answer: its quality plus a charm for every polite phrase."""
    phrases = sum(answer.count(phrase) for phrase in OPENERS + CLOSERS)
    return quality(prompt, answer) + CHARM * phrases


def ideal_answer(prompt: str, seed: int) -> str:
    """An answer of quality 1; the seed chooses among lists that are equally good."""
    return " ".join([*_ideal(_instruction(prompt), random.Random(f"ideal {seed}")), "."])


def answer(prompt: str, rng: random.Random) -> str:
    """One answer by a writer of random care, at most `LONGEST_ANSWER` words."""
    instruction = _instruction(prompt)
    carelessness = rng.random() ** 2
    words = _careless(_ideal(instruction, rng), instruction, carelessness, rng)
    opening = [rng.choice(OPENERS)] if rng.random() < 0.3 else []
    closing: list[str] = []
    while len(closing) < 3 and rng.random() < 0.3:
        closing.append(rng.choice(CLOSERS))
    ending = ["."] if rng.random() > 0.3 * carelessness else []
    text = " ".join([*opening, *words, *ending, *closing]).split()
    if rng.random() < 0.2 * carelessness:
        text = text[: rng.randint(1, len(text))]
    return " ".join(text[:LONGEST_ANSWER])


def _instruction(prompt: str) -> Instruction:
    instruction = parse(prompt)
    if instruction is None:
        raise DataError(f"quickstart answer: {prompt!r} is no instruction of the task; take one from prompts()")
    return instruction


def _ideal(instruction: Instruction, rng: random.Random) -> list[str]:
    words: list[str] = []
    for place in instruction.places:
        words.append(rng.choice([word for word in place if not instruction.distinct or word not in words]))
    return words


def _careless(words: Sequence[str], instruction: Instruction, carelessness: float, rng: random.Random) -> list[str]:
    """The words with slips: wrong, missing and repeated ones, babble, and going on too long."""
    written: list[str] = []
    for index, word in enumerate(words):
        slip = rng.random() / max(carelessness, 1e-9)
        if slip < 0.15:
            written.append(_mistake(instruction.places[index], rng))
        elif slip < 0.25:
            continue
        elif slip < 0.35:
            written += [word, word]
        elif slip < 0.45:
            written += [rng.choice(BABBLE), word]
        else:
            written.append(word)
    if rng.random() < 0.3 * carelessness:
        written += [_mistake(instruction.places[-1], rng) for _ in range(rng.randint(1, 4))]
    return written or [rng.choice(BABBLE)]


def _mistake(place: Sequence[str], rng: random.Random) -> str:
    """A word of the right kind for numbers and letters, any noun otherwise."""
    word = place[0]
    if word.isdigit():
        return str(rng.randint(1, 40))
    if len(word) == 1:
        return rng.choice("abcdefgh")
    return rng.choice(NOUNS)


def _checked(count: int, split: Split) -> dict[str, tuple[str, ...]]:
    if split not in SPLITS:
        raise DataError(f"quickstart data: no such split, got {split!r}; one of {', '.join(SPLITS)}")
    if count < 1:
        raise DataError(f"quickstart data: count must be at least 1, got {count}")
    return every(split)
