"""A generated preference task with a known quality: instructions, answers good and bad, and noisy preferences.

Everything is a pure function of its arguments. Two writers answer each prompt, each in one of four moods. The
imagined annotator sees the quality through noise, so that 13 % of its labels contradict what it likes, and it has a
weak spot for polite phrases, which `quality` charges for. Scores are what it saw, noise and all: labels follow from
them. A policy that follows the preferences with measure gets
better; one that squeezes them falls silent or babbles.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

from raypo.errors import DataError
from raypo.quickstart.instructions import FAMILIES, SPLITS, Instruction, Split, every, parse
from raypo.quickstart.quality import quality
from raypo.quickstart.vocabulary import BABBLE, LARGEST_NUMBER, LETTERS, NOUNS, POLITE

TEMPERATURE = 0.12
"""Of the Bradley-Terry annotator, in units of its liking (quality plus charm)."""
CHARM = 0.08
"""What the annotator adds to the quality for each polite phrase."""
LONGEST_ANSWER = 24
"""Words; generation needs one token more, for the end."""
MOODS: dict[str, int] = {"careful": 35, "sloppy": 15, "rambling": 25, "hasty": 25}
"""How often, in percent: as asked; with wrong, missing and doubled words; going on and on; broken off."""


def pairs(count: int, seed: int, split: Split = "train") -> list[dict[str, Any]]:
    """`count` preferences between two different answers: {prompt, chosen, rejected, chosen_score, rejected_score}."""
    rng = random.Random(f"pairs {split} {seed}")
    by_family = _checked(count, split)
    rows: list[dict[str, Any]] = []
    while len(rows) < count:
        prompt = rng.choice(by_family[rng.choice(FAMILIES)])
        first, second = answer(prompt, rng), answer(prompt, rng)
        if first == second:
            continue
        error = TEMPERATURE * _logistic(rng) / 2
        seen = {first: liking(prompt, first) - error, second: liking(prompt, second) + error}
        chosen, rejected = sorted(seen, key=lambda text: -seen[text])
        scores = {"chosen_score": seen[chosen], "rejected_score": seen[rejected]}
        rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected, **scores})
    return rows


def rankings(count: int, seed: int, split: Split = "train", answers: int = 4) -> list[dict[str, Any]]:
    """`count` lists of different answers, from the same writers and the same annotator: {prompt, completions, scores}.

    The noise of each score is a Gumbel variable, so that any two answers of a list compare as a pair's do.
    """
    if answers < 2:
        raise DataError(f"quickstart data: a list needs at least 2 answers, got answers {answers}")
    rng = random.Random(f"rankings {split} {seed} {answers}")
    by_family = _checked(count, split)
    rows: list[dict[str, Any]] = []
    for _ in range(count):
        prompt = rng.choice(by_family[rng.choice(FAMILIES)])
        written: dict[str, float] = {}
        while len(written) < answers:
            text = answer(prompt, rng)
            written.setdefault(text, liking(prompt, text) - TEMPERATURE * math.log(-math.log(_open_unit(rng))))
        rows.append({"prompt": prompt, "completions": tuple(written), "scores": tuple(written.values())})
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
    phrases = sum(answer.count(phrase) for phrase in POLITE)
    return quality(prompt, answer) + CHARM * phrases


def ideal_answer(prompt: str, seed: int) -> str:
    """An answer of quality 1; the seed chooses among lists that are equally good."""
    return " ".join([*_ideal(_instruction(prompt), random.Random(f"ideal {seed}")), "."])


def answer(prompt: str, rng: random.Random) -> str:
    """One answer by a writer in one of the `MOODS`, more or less polite, at most `LONGEST_ANSWER` words."""
    instruction = _instruction(prompt)
    mood = rng.choices(tuple(MOODS), tuple(MOODS.values()))[0]
    words = [*_ideal(instruction, rng), "."]
    if mood == "sloppy":
        words = [rng.choice(BABBLE), *_slips(words, rng)]
    elif mood == "rambling":
        words = [*words[:-1], *_ramble(words[:-1], rng)]
    while words.count("!") < 3 and rng.random() < 0.5:
        words += rng.choice(POLITE).split()
    if mood == "hasty":
        words = words[: rng.randint(1, len(words) - 1)]
    return " ".join(words[:LONGEST_ANSWER])


def _logistic(rng: random.Random) -> float:
    """A draw of the standard logistic distribution."""
    u = _open_unit(rng)
    return math.log(u / (1 - u))


def _open_unit(rng: random.Random) -> float:
    """A draw above 0 and below 1."""
    return rng.random() or 0.5


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


def _slips(words: Sequence[str], rng: random.Random) -> list[str]:
    """The words with about two in five wrong, left out, doubled or led by babble."""
    written: list[str] = []
    for word in words:
        slip = rng.choices(("none", "wrong", "missing", "doubled", "babble"), (60, 15, 10, 10, 5))[0]
        written += {
            "none": [word],
            "wrong": [_mistake(word, rng)],
            "missing": [],
            "doubled": [word, word],
            "babble": [rng.choice(BABBLE), word],
        }[slip]
    return written


def _ramble(words: Sequence[str], rng: random.Random) -> list[str]:
    """Going on after the answer: saying it again, or adding words that nobody asked for."""
    again = list(words) if rng.random() < 0.5 else [_mistake(words[-1], rng) for _ in range(rng.randint(2, 6))]
    return [*again, "."] if rng.random() < 0.7 else [*again, *again]


def _mistake(word: str, rng: random.Random) -> str:
    """Another word of the same kind: a number, a letter, or any noun."""
    if word.isdigit():
        return str(rng.randint(1, LARGEST_NUMBER))
    return rng.choice(LETTERS if word in LETTERS else NOUNS)


def _checked(count: int, split: Split) -> dict[str, tuple[str, ...]]:
    if split not in SPLITS:
        raise DataError(f"quickstart data: no such split, got {split!r}; one of {', '.join(SPLITS)}")
    if count < 1:
        raise DataError(f"quickstart data: count must be at least 1, got {count}")
    return every(split)
