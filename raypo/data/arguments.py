"""What a study file may say to a function of raypo: its keyword-only arguments, checked against their annotations."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

GIVEN_BY_US = ("read",)


def arguments_of(function: Callable[..., Any]) -> type[BaseModel]:
    """A pydantic model of the arguments that a user may give."""
    hints = get_type_hints(function, include_extras=True)
    arguments: dict[str, Any] = {
        p.name: (hints[p.name], ... if p.default is p.empty else p.default)
        for p in inspect.signature(function).parameters.values()
        if p.kind is p.KEYWORD_ONLY and p.name not in GIVEN_BY_US
    }
    return create_model(function.__name__, __config__=ConfigDict(extra="forbid"), **arguments)


def read_arguments(model: type[BaseModel], given: Mapping[str, Any], where: str, problems: list[str]) -> dict[str, Any]:
    """The arguments with defaults filled in; whatever is wrong with them goes into `problems`, one line each."""
    try:
        return model.model_validate(dict(given)).model_dump()
    except ValidationError as error:
        problems += [_problem(where, item, model) for item in error.errors()]
        return {}


def _problem(where: str, item: Any, model: type[BaseModel]) -> str:
    path = ".".join(map(str, (where, *item["loc"])))
    if item["type"] == "extra_forbidden":
        return f"{path}: no such argument; allowed: {', '.join(model.model_fields) or 'none'}"
    return f"{path}: {item['msg'][0].lower()}{item['msg'][1:]}, got {item['input']!r}"
