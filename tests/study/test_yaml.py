import math

import pytest

from raypo import yaml
from raypo.errors import StudyError


def test_on_and_no_are_words_and_only_true_and_false_are_truth_values() -> None:
    text = "{on: chosen, a: off, b: yes, c: no, d: true, e: False, f: 1e-7, g: null}"
    read = {"on": "chosen", "a": "off", "b": "yes", "c": "no", "d": True, "e": False, "f": 1e-7, "g": None}
    assert yaml.load(text, "here") == read


def test_numbers_are_decimal_and_days_are_words() -> None:
    assert yaml.load("[010, 1:30, 1:30.5, 2024-02-30]", "here") == ["010", "1:30", "1:30.5", "2024-02-30"]
    assert yaml.load("[0, -3, 1_000, 0x10, 1_000.5, .5, 2.]", "here") == [0, -3, 1000, 16, 1000.5, 0.5, 2.0]
    assert yaml.load("[1e5, 1.5E-3, .5e+2, 1.e3, -.inf]", "here") == [1e5, 1.5e-3, 50.0, 1000.0, -math.inf]


@pytest.mark.parametrize(
    "value", ["", "a: b", "010", "1:30", "1e5", "on", "2024-02-30", "true", "~", ".5", "0x10", "1_0"]
)
def test_what_is_dumped_as_text_is_read_as_text(value: str) -> None:
    assert yaml.load(yaml.dump({"a": value}), "here") == {"a": value}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "name: {{ foo }}",
            "here: line 1, column 8: not valid YAML: a key must be a word or a number, got {'foo': None}",
        ),
        ("? [a, b]\n: 1", "here: line 1, column 3: not valid YAML: a key must be a word or a number, got ['a', 'b']"),
        ("a: !!int abc", "here: line 1, column 4: not valid YAML: no int: invalid literal"),
        ("a: !!float abc", "here: line 1, column 4: not valid YAML: no float: could not convert"),
        ("a: !!timestamp abc", "here: line 1, column 4: not valid YAML: no timestamp"),
        ("a: !!timestamp 2024-13-45", "here: line 1, column 4: not valid YAML: no timestamp: month must be in 1..12"),
        ("a: " + "9" * 5000, "here: line 1, column 4: not valid YAML: no int: Exceeds the limit"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_place(text: str, said: str) -> None:
    with pytest.raises(StudyError) as caught:
        yaml.load(text, "here")
    assert str(caught.value).startswith(said)
