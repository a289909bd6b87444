"""Every factor of the quality by a number a person can check."""

import re

import pytest

from raypo.errors import JudgeError
from raypo.quickstart.quality import quality

LIST, COUNT, SAY, REVERSE = (
    "list 3 animals\n",
    "count from 4 to 7\n",
    "say blue 3 times in capitals\n",
    "reverse b d a\n",
)


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        (LIST, "dog cat pig ."),
        (LIST, "cat dog pig thank you !"),
        ("list 1 animals and 2 fruits\n", "cow plum fig ."),
        (COUNT, "4 5 6 7 ."),
        (SAY, "BLUE BLUE BLUE ."),
        ("say oak then axe 2 times\n", "oak axe oak axe ."),
        (REVERSE, "a d b ."),
        (REVERSE, "a d b thank you !"),
    ],
)
def test_a_short_faithful_answer_is_worth_one(prompt: str, answer: str) -> None:
    assert quality(prompt, answer) == 1.0


@pytest.mark.parametrize(
    ("prompt", "answer", "expected"),
    [
        (LIST, "dog cat oak .", 2 / 3),  # one of three is no animal
        (LIST, "dog cat .", 2 / 3),  # one is missing
        (LIST, "dog cat dog .", 2 / 3),  # a second dog does not count
        (LIST, "dog cat pig fox .", 3 / 4),  # one too many
        ("list 1 animals and 2 fruits\n", "plum fig cow .", 2 / 3),  # the wrong order
        (COUNT, "7 6 5 4 .", 1 / 4),  # one number stands in order
        (COUNT, "4 5 7 .", 3 / 4),
        (SAY, "blue blue blue .", 0.0),  # no capitals
        (REVERSE, "b d a .", 1 / 3),
        (REVERSE, "um", 0.0),
        (REVERSE, "", 0.0),
    ],
)
def test_wrong_missing_and_surplus_words_cost_their_share(prompt: str, answer: str, expected: float) -> None:
    assert quality(prompt, answer) == pytest.approx(expected)


def test_an_answer_that_breaks_off_is_worth_half() -> None:
    assert quality(COUNT, "4 5 6 7") == 0.5


def test_politeness_beyond_the_room_costs_by_length() -> None:
    """Four needed words (3 letters and the stop) and 3 of room, over the words said."""
    assert quality(REVERSE, "a d b . thank you !") == 1.0
    assert quality(REVERSE, "a d b . hope this helps !") == pytest.approx(7 / 8)


def test_repeating_a_phrase_costs_its_repeated_word_pairs() -> None:
    """Twice "thank you !" repeats 2 of 9 adjacent pairs, and 10 words take the room of 7."""
    assert quality(REVERSE, "a d b . thank you ! thank you !") == pytest.approx(7 / 10 * (1 - 2 / 9))


def test_a_wanted_repetition_costs_nothing() -> None:
    assert quality("say oak 5 times\n", "oak oak oak oak oak .") == 1.0


@pytest.mark.parametrize("prompt", ["what is love", "count from 7 to 4\n", "list 3 cars\n", ""])
def test_a_strange_prompt_is_refused_by_name(prompt: str) -> None:
    with pytest.raises(JudgeError, match=re.escape(repr(prompt))):
        quality(prompt, "4 5 .")
