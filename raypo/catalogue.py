"""What `raypo methods` shows, read from the methods' own signatures and docstrings."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.constrain import Constrain
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from raypo.errors import MethodError
from raypo.methods import METHODS, NEEDS, REQUIRED, Hyperparameter, Method, nearest

WIDEST = 110
"""Columns that prose fills at most; longer lines are hard to read."""
DATA = {
    "pairs": "pairs of a chosen and a rejected answer",
    "unpaired": "single answers, each good or bad; pairs give two of them",
    "ranked": "scored answers to a prompt",
    "completions": "answers to imitate; pairs and lists give their best",
}


def as_json(name: str | None = None) -> Any:
    """One method, or all of them by name."""
    if name is not None:
        return _described(_named(name))
    return {method.name: _described(method) for method in METHODS.values()}


def to_rich(name: str | None = None) -> RenderableType:
    """All methods, an entry each, or one in full."""
    if name is not None:
        return Constrain(_page(_named(name)), WIDEST)
    entries = [_entry(method) for method in METHODS.values()]
    return Constrain(Group(*entries, Text("raypo methods NAME shows one in full", style="dim")), WIDEST)


def _entry(method: Method) -> RenderableType:
    needs = ", ".join(_need(method, name) for name in method.needs) or "nothing beside the policy"
    return Group(
        Text.assemble((method.name, "bold"), f"  {method.summary}"),
        Padding(_equation(method.equation), (0, 0, 0, 4)),
        Padding(_hyperparameters(method), (0, 0, 0, 4)),
        Padding(_facts({"data": _data(method), "needs": needs, "paper": method.paper}), (0, 0, 1, 4)),
    )


def _page(method: Method) -> RenderableType:
    needs = "\n".join(f"{name}: {_need(method, name, explained=True)}" for name in method.needs)
    return Group(
        Text(method.name, style="bold"),
        *(Padding(block, (0, 0, 1, 0)) for block in _documentation(method)),
        Padding(_facts({"data": _data(method), "needs": needs or "nothing beside the policy"}), (0, 0, 1, 0)),
        _hyperparameters(method, header=True),
    )


def _documentation(method: Method) -> Iterator[RenderableType]:
    """The blocks of a docstring: prose as wide as the page, equations and code line by line."""
    for block in (inspect.getdoc(method.function) or method.summary).split("\n\n"):
        if block.startswith("    "):
            yield Padding(_equation(inspect.cleandoc(block)), (0, 0, 0, 4))
        elif block.startswith(">>>"):
            yield Text(block, style="dim")
        else:
            yield Text(block.replace("\n", " ").replace(" By hand:", "\nBy hand:"))


def _equation(text: str) -> RenderableType:
    """Lines of an equation; what does not fit goes on below, indented."""
    grid = Table.grid()
    grid.add_column(overflow="fold")
    for line in text.splitlines():
        head, *rest = line.split("    ")
        grid.add_row(Text(head.strip(), style="cyan"))
        for part in filter(str.strip, rest):
            grid.add_row(Padding(Text(part.strip(), style="cyan"), (0, 0, 0, 4)))
    return grid


def _hyperparameters(method: Method, header: bool = False) -> RenderableType:
    grid = Table(box=None, show_header=header, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for column, style in (("hyperparameter", "green"), ("default", ""), ("allowed", "dim")):
        grid.add_column(column, style=style, overflow="fold")
    for h in method.hyperparameters.values():
        default = "required" if h.default is REQUIRED else "null" if h.default is None else str(h.default)
        grid.add_row(h.name, f"{default} {h.unit}".strip(), h.allowed)
    return grid if method.hyperparameters else Text("no hyperparameters", style="dim")


def _facts(facts: dict[str, str]) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    for name, text in facts.items():
        grid.add_row(Text(name, style="dim"), Text(text))
    return grid


def _data(method: Method) -> str:
    """The data a method takes, with what it must carry."""
    carried = {"score": "a score each", "unit": "turns told apart"}
    wanted = [carried[name] for name in method.carries if (method.data, name) != ("ranked", "score")]
    if method.candidates:
        wanted.append(f"{method.candidates} or more of them")
    return "; ".join([DATA[method.data], *wanted])


def _need(method: Method, name: str, explained: bool = False) -> str:
    condition = method.conditions.get(name)
    only = f"if {condition.hyperparameter} is {condition.value}" if condition else ""
    if explained:
        return f"{NEEDS[name]}; only {only}" if only else NEEDS[name]
    return f"{name} ({only})" if only else name


def _described(method: Method) -> dict[str, Any]:
    return {
        "name": method.name,
        "summary": method.summary,
        "equation": method.equation,
        "paper": method.paper,
        "data": method.data,
        "carries": list(method.carries),
        "candidates": method.candidates,
        "needs": list(method.needs),
        "hyperparameters": {h.name: _bounded(h) for h in method.hyperparameters.values()},
    }


def _bounded(h: Hyperparameter) -> dict[str, Any]:
    return {
        "type": h.type.__name__,
        "allowed": h.allowed,
        "default": None if h.default is REQUIRED else h.default,
        "required": h.default is REQUIRED,
        "unit": h.unit,
    }


def _named(name: str) -> Method:
    if name not in METHODS:
        raise MethodError(f"methods: no method {name!r}; {nearest(name, METHODS)}")
    return METHODS[name]
