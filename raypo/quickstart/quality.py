"""The known quality of an answer in the generated task: the rule judge of the embedded default.

    quality = content * ending * brevity * (1 - stutter)                                            in [0, 1]

- content: how many of the wanted words stand there in the wanted order (longest common subsequence), over the larger
  of the number wanted and the number said. Wrong, missing and surplus words all cost.
- ending: 1 when the answer closes with "." or "!", otherwise 1/2: it was broken off.
- brevity: 1 up to `ROOM` words more than needed, then (needed + ROOM) / length. One polite phrase is free.
- stutter: share of adjacent word pairs that were said before, beyond what the instruction asks for.

It is not trivially won. The best answer to "list 2 animals" is "cat dog ." or any such; listing more, saying it again,
thanking twice or stopping in the middle all lose.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from raypo.errors import JudgeError
from raypo.quickstart.instructions import Instruction, parse
from raypo.quickstart.vocabulary import FLOURISH

ROOM = 3
BROKEN_OFF = 0.5


def quality(prompt: str, answer: str) -> float:
    """Quality of an answer in [0, 1], 1 for a short faithful one.

    Raises JudgeError when the prompt is no instruction of the task.

    >>> quality("count from 2 to 4\\n", "2 3 4 ."), quality("count from 2 to 4\\n", "2 3 4")
    (1.0, 0.5)
    """
    instruction = parse(prompt)
    if instruction is None:
        raise JudgeError(
            f"quickstart judge: cannot rate an answer to {prompt!r}; it knows prompts of raypo.quickstart.task only; "
            "choose another judge for other data"
        )
    words = answer.split()
    if not words:
        return 0.0
    needed = len(instruction.places) + 1
    ending = 1.0 if words[-1] in (".", "!") else BROKEN_OFF
    brevity = min(1.0, (needed + ROOM) / len(words))
    return content(instruction, words) * ending * brevity * (1.0 - stutter(instruction, words))


def content(instruction: Instruction, words: Sequence[str]) -> float:
    """Share of wanted words said in order, over the larger of the wanted and the said, in [0, 1]."""
    said = [word for word in words if word != "." and word not in FLOURISH]
    countable = list(dict.fromkeys(said)) if instruction.distinct else said
    return _common(instruction.places, countable) / max(len(instruction.places), len(said))


def stutter(instruction: Instruction, words: Sequence[str]) -> float:
    """Share of adjacent word pairs already said, beyond those of the ideal answer, in [0, 1]."""
    if len(words) < 2:
        return 0.0
    ideal = [] if instruction.distinct else [place[0] for place in instruction.places]
    return max(0, _repeats(words) - _repeats(ideal)) / (len(words) - 1)


def _repeats(words: Sequence[str]) -> int:
    pairs = list(pairwise(words))
    return len(pairs) - len(set(pairs))


def _common(places: Sequence[Sequence[str]], said: Sequence[str]) -> int:
    """Length of the longest common subsequence of places and words."""
    row = [0] * (len(said) + 1)
    for place in places:
        above = row
        row = [0]
        for index, word in enumerate(said):
            row.append(above[index] + 1 if word in place else max(above[index + 1], row[index]))
    return row[-1]
