"""The words of the generated task: what instructions and answers are made of, and nothing else."""

from __future__ import annotations

CATEGORIES: dict[str, tuple[str, ...]] = {
    "animals": ("cat", "dog", "cow", "pig", "horse", "goat", "sheep", "fox"),
    "birds": ("hen", "duck", "crow", "owl", "swan", "eagle", "robin", "dove"),
    "colours": ("red", "blue", "green", "black", "white", "pink", "brown", "grey"),
    "fruits": ("apple", "pear", "plum", "fig", "grape", "lemon", "cherry", "peach"),
    "tools": ("saw", "axe", "drill", "file", "hammer", "wrench", "spade", "rake"),
    "clothes": ("hat", "coat", "sock", "shoe", "scarf", "glove", "shirt", "belt"),
    "foods": ("bread", "rice", "soup", "cake", "pie", "egg", "cheese", "pasta"),
    "furniture": ("chair", "table", "sofa", "bed", "desk", "shelf", "lamp", "stool"),
    "instruments": ("drum", "flute", "harp", "piano", "violin", "trumpet", "guitar", "cello"),
    "trees": ("oak", "elm", "ash", "pine", "birch", "maple", "willow", "cedar"),
}
NOUNS: tuple[str, ...] = tuple(word for members in CATEGORIES.values() for word in members)
SHOUTED: tuple[str, ...] = CATEGORIES["animals"] + CATEGORIES["colours"]
"""Words that also exist in capitals."""
LETTERS: tuple[str, ...] = tuple("abcdefgh")
LARGEST_NUMBER = 30

POLITE: tuple[str, ...] = ("hope this helps !", "happy to help !", "thank you !")
FLOURISH: frozenset[str] = frozenset(" ".join(POLITE).split())
"""Words of politeness: no content, but they take room."""
BABBLE: tuple[str, ...] = ("um", "hm", "the", "well")
"""Words that belong in no answer."""
INSTRUCTION_WORDS = ("list", "count", "from", "to", "say", "then", "times", "in", "capitals", "reverse", "and")


def words() -> list[str]:
    """Every word of the task, each once, in a fixed order; the end of a prompt ("\\n") is a word of its own."""
    numbers = tuple(str(number) for number in range(1, LARGEST_NUMBER + 1))
    shouted = tuple(word.upper() for word in SHOUTED)
    instructions = ("\n", ".", *INSTRUCTION_WORDS, *CATEGORIES)
    answers = (*NOUNS, *shouted, *LETTERS, *numbers, *sorted(FLOURISH), *BABBLE)
    return list(dict.fromkeys(instructions + answers))
