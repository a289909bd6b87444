"""What `raypo methods` shows, read from the methods' own signatures and docstrings."""

from __future__ import annotations

import inspect
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from raypo.errors import MethodError
from raypo.methods import METHODS, REQUIRED, Hyperparameter, Method, nearest


def as_json(name: str | None = None) -> Any:
    """One method, or all of them by name."""
    if name is not None:
        return _described(_named(name))
    return {method.name: _described(method) for method in METHODS.values()}


def to_rich(name: str | None = None) -> Group | Table:
    """A table of all methods, or one in full."""
    return _overview() if name is None else _page(_named(name))


def _overview() -> Table:
    drawn = Table(box=box.SIMPLE_HEAD, caption="raypo methods NAME shows one in full")
    for column in ("method", "data", "needs", "hyperparameters", "equation", "paper"):
        drawn.add_column(column, overflow="fold")
    for method in METHODS.values():
        values = "\n".join(_line(h) for h in method.hyperparameters.values())
        drawn.add_row(method.name, method.data, ", ".join(method.needs) or "–", values, method.equation, method.paper)
    return drawn


def _page(method: Method) -> Group:
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("hyperparameter", "allowed", "default", "unit"):
        table.add_column(column, overflow="fold")
    for h in method.hyperparameters.values():
        table.add_row(h.name, h.allowed, "required" if h.default is REQUIRED else str(h.default), h.unit)
    documentation = Text(_docstring(method))
    return Group(
        Text(method.name, style="bold"), documentation, Text(f"\nneeds: {', '.join(method.needs) or 'nothing'}"), table
    )


def _docstring(method: Method) -> str:
    return inspect.getdoc(method.function) or method.summary


def _line(h: Hyperparameter) -> str:
    default = "required" if h.default is REQUIRED else f"default {h.default}"
    return f"{h.name}: {h.allowed}, {default}{f', {h.unit}' if h.unit else ''}"


def _described(method: Method) -> dict[str, Any]:
    return {
        "name": method.name,
        "summary": method.summary,
        "equation": method.equation,
        "paper": method.paper,
        "data": method.data,
        "needs": list(method.needs),
        "hyperparameters": {
            h.name: {
                "type": h.type.__name__,
                "allowed": h.allowed,
                "default": None if h.default is REQUIRED else h.default,
                "required": h.default is REQUIRED,
                "unit": h.unit,
            }
            for h in method.hyperparameters.values()
        },
    }


def _named(name: str) -> Method:
    if name not in METHODS:
        raise MethodError(f"methods: no method {name!r}; {nearest(name, METHODS)}")
    return METHODS[name]
