"""What a study file may say under data.transforms: `[{fraction: 0.5}, {flip_labels: {share: 0.2, seed: 1}}]`."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from raypo.data.records import Record
from raypo.data.transforms import TRANSFORMS, Reader
from raypo.errors import StudyError

GIVEN_BY_US = ("records", "read")


@dataclass(frozen=True)
class Transform:
    """A transform with its checked arguments, defaults filled in."""

    name: str
    arguments: Mapping[str, Any]

    def apply(self, records: Sequence[Record], read: Reader | None = None) -> list[Record]:
        """The transformed records; `read(source, split=, format=, columns=)` serves transforms that add data."""
        function = TRANSFORMS[self.name]
        extra = {"read": read} if "read" in inspect.signature(function).parameters else {}
        return function(records, **self.arguments, **extra)


def parse_transforms(specs: Sequence[Any], where: str = "data.transforms") -> tuple[Transform, ...]:
    """Check a study file's list of transforms; raises StudyError with every problem, one a line.

    A value that is no mapping fills the first argument, a list the first ones: {fraction: 0.5}, {split: [0, 0.8]}.
    """
    problems: list[str] = []
    made = [_parse(spec, f"{where}[{i}]", problems) for i, spec in enumerate(specs)]
    if problems:
        raise StudyError("\n".join(problems))
    return tuple(transform for transform in made if transform is not None)


def apply_transforms(
    records: Sequence[Record], transforms: Sequence[Transform], read: Reader | None = None
) -> list[Record]:
    """Apply transforms in order."""
    result = list(records)
    for transform in transforms:
        result = transform.apply(result, read)
    return result


def _parse(spec: Any, where: str, problems: list[str]) -> Transform | None:
    if isinstance(spec, str):
        spec = {spec: {}}
    if not isinstance(spec, Mapping) or len(spec) != 1:
        problems.append(f"{where}: must be one {{name: arguments}}, got {spec!r}; allowed: {', '.join(TRANSFORMS)}")
        return None
    name, given = next(iter(spec.items()))
    if name not in TRANSFORMS:
        near = difflib.get_close_matches(str(name), TRANSFORMS, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        problems.append(f"{where}: no such transform {name!r}.{hint} Allowed: {', '.join(TRANSFORMS)}")
        return None
    model = _model(name)
    if not isinstance(given, Mapping):
        values = given if isinstance(given, list | tuple) else [given]
        if len(values) > len(model.model_fields):
            problems.append(f"{where}.{name}: takes at most {len(model.model_fields)} values, got {values!r}")
            return None
        given = dict(zip(model.model_fields, values, strict=False))
    try:
        return Transform(name, model.model_validate(dict(given)).model_dump())
    except ValidationError as error:
        problems += [_problem(f"{where}.{name}", item, model) for item in error.errors()]
        return None


def _model(name: str) -> type[BaseModel]:
    """A pydantic model of a transform's keyword-only arguments."""
    function = TRANSFORMS[name]
    hints = get_type_hints(function, include_extras=True)
    arguments: dict[str, Any] = {
        p.name: (hints[p.name], ... if p.default is p.empty else p.default)
        for p in inspect.signature(function).parameters.values()
        if p.name not in GIVEN_BY_US
    }
    return create_model(name, __config__=ConfigDict(extra="forbid"), **arguments)


def _problem(where: str, item: Any, model: type[BaseModel]) -> str:
    path = ".".join(map(str, (where, *item["loc"])))
    if item["type"] == "extra_forbidden":
        return f"{path}: no such argument; allowed: {', '.join(model.model_fields)}"
    return f"{path}: {item['msg'][0].lower()}{item['msg'][1:]}, got {item['input']!r}"
