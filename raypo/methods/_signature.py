"""Reads a method's signature: which data, which inputs, which hyperparameters with which bounds."""

from __future__ import annotations

import difflib
import inspect
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from raypo.errors import MethodError
from raypo.methods._annotations import Bounds, Unit

UNBOUNDED = Bounds()


class REQUIRED:
    """Stands for "no default": whoever uses the method must choose."""


@dataclass(frozen=True)
class Hyperparameter:
    """One keyword-only parameter of a method: its type, the values it may take, its default and unit."""

    name: str
    type: type
    default: object = REQUIRED
    bounds: Bounds = UNBOUNDED
    choices: tuple[object, ...] = ()
    optional: bool = False
    unit: str = ""

    low = property(lambda self: self.bounds.low)
    high = property(lambda self: self.bounds.high)
    low_open = property(lambda self: self.bounds.low_open)
    high_open = property(lambda self: self.bounds.high_open)

    @property
    def allowed(self) -> str:
        """The allowed values in words, as error messages and listings show them."""
        if self.choices:
            text = " or ".join(map(repr, self.choices))
        elif self.type is bool:
            text = "true or false"
        else:
            text = f"{'an integer' if self.type is int else 'a number'} in {self.bounds}"
        return f"{text}, or null" if self.optional else text

    def parse(self, value: object, method: str) -> Any:
        """`value` as this hyperparameter's type (number text such as "1e-7" included), or a MethodError."""
        if value is None and self.optional:
            return None
        parsed = self._converted(value)
        if parsed is None or (parsed not in self.choices if self.choices else not self._inside(parsed)):
            raise MethodError(f"{method}.{self.name}: not allowed, got {value!r}; needs {self.allowed}")
        return parsed

    def _inside(self, value: Any) -> bool:
        return self.type is bool or value in self.bounds

    def _converted(self, value: object) -> Any:
        if self.type in (bool, str):
            return value if isinstance(value, self.type) else None
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            return None
        try:
            number = float(value)
            return number if self.type is float else int(number) if number == int(number) else None
        except (ValueError, OverflowError):
            return None


def flatten(annotation: Any) -> tuple[Any, list[Any], bool]:
    """(bare type, all markers, whether None is allowed) of a possibly nested Annotated or Optional type."""
    if get_origin(annotation) is Annotated:
        inner, *markers = get_args(annotation)
        bare, more, optional = flatten(inner)
        return bare, more + markers, optional
    if get_origin(annotation) in (Union, types.UnionType):
        kept = [part for part in get_args(annotation) if part is not type(None)]
        if len(kept) == 1:
            bare, markers, _ = flatten(kept[0])
            return bare, markers, True
    return annotation, [], False


def first(markers: Iterable[Any], kind: type) -> Any:
    """The first marker of that kind, or None."""
    return next((marker for marker in markers if isinstance(marker, kind)), None)


def read_hyperparameters(function: Callable[..., Any]) -> dict[str, Hyperparameter]:
    """The keyword-only parameters of `function`, in order."""
    hints = get_type_hints(function, include_extras=True)
    names = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    return {p.name: _hyperparameter(function.__name__, p, hints.get(p.name)) for p in names}


def _hyperparameter(method: str, parameter: inspect.Parameter, hint: Any) -> Hyperparameter:
    bare, markers, optional = flatten(hint)
    choices = get_args(bare) if get_origin(bare) is Literal else ()
    kind = type(choices[0]) if choices else bare
    if kind not in (float, int, bool, str) or (kind is str and not choices):
        raise MethodError(
            f"{method}.{parameter.name}: cannot be searched, got type {hint!r}; needs float, int, bool or Literal"
        )
    default = REQUIRED if parameter.default is parameter.empty else parameter.default
    unit = first(markers, Unit)
    return Hyperparameter(
        parameter.name,
        kind,
        default,
        first(markers, Bounds) or UNBOUNDED,
        choices,
        optional,
        unit.name if unit else "",
    )


def nearest(name: str, allowed: Iterable[str]) -> str:
    """ "; did you mean 'x'?" when one is close, then all allowed names."""
    names = sorted(allowed)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}Allowed: {', '.join(names) or 'none'}"
