"""What `raypo methods` shows: everything of every method, legible on a narrow and on a wide terminal."""

from __future__ import annotations

import io
import json
import re

import pytest
from rich.console import Console

from raypo import catalogue
from raypo.errors import MethodError
from raypo.methods import METHODS, REQUIRED


def shown(width: int, name: str | None = None) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(catalogue.to_rich(name))
    return console.export_text()


def words(text: str) -> str:
    """A text without regard to where its lines break."""
    return re.sub(r"\s+", " ", text)


@pytest.mark.parametrize("width", [80, 200])
def test_the_list_says_everything_of_every_method(width: int) -> None:
    text = shown(width)
    assert max(map(len, text.splitlines())) <= min(width, catalogue.WIDEST)
    entries = dict(zip(METHODS, re.split(r"(?m)^(?=\w+  [A-Z])", text)[1:], strict=True))
    for name, method in METHODS.items():
        entry = words(entries[name])
        assert entry.startswith(f"{name} {method.summary}")
        assert words(method.equation) in entry
        assert words(method.paper) in entry
        assert all(need in entry for need in method.needs)
        for h in method.hyperparameters.values():
            default = "required" if h.default is REQUIRED else "null" if h.default is None else str(h.default)
            assert f"{h.name} {default} {h.unit}".strip() + f" {h.allowed}" in entry


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("name", METHODS)
def test_a_page_holds_the_whole_docstring_and_what_each_need_is(width: int, name: str) -> None:
    text, method = shown(width, name), METHODS[name]
    assert max(map(len, text.splitlines())) <= min(width, catalogue.WIDEST)
    assert words(method.function.__doc__ or "").strip() in words(text)
    assert all(f"{need}: " in text for need in method.needs)


def test_conditions_and_what_data_must_carry_are_said() -> None:
    assert "value (if advantage is gae), token_kl (if kl_mode is exact)" in words(shown(200))
    assert "a chosen and a rejected answer; a score each" in shown(200, "odpo")
    assert "scored answers to a prompt; 3 or more of them" in shown(200, "rank_dpo")
    assert "only if kl_mode is exact" in words(shown(80, "offline_ppo"))


def test_json_holds_the_same() -> None:
    found = json.loads(json.dumps(catalogue.as_json()))
    assert list(found) == list(METHODS)
    assert found["ipo"]["hyperparameters"]["aggregate"]["required"]
    assert found["dpo"] == json.loads(json.dumps(catalogue.as_json("dpo")))
    assert (found["brain"]["data"], found["brain"]["carries"], found["brain"]["candidates"]) == ("ranked", ["score"], 3)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(MethodError, match=r"no method 'dop'.*'dpo'"):
        catalogue.to_rich("dop")
