from raypo import yaml


def test_on_and_no_are_words_and_only_true_and_false_are_truth_values() -> None:
    text = "{on: chosen, a: off, b: yes, c: no, d: true, e: False, f: 1e-7, g: null}"
    read = {"on": "chosen", "a": "off", "b": "yes", "c": "no", "d": True, "e": False, "f": 1e-7, "g": None}
    assert yaml.load(text, "here") == read
