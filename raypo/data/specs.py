"""What a study file may say under data.transforms: `[{fraction: 0.5}, {flip_labels: {share: 0.2, seed: 1}}]`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raypo.data.arguments import arguments_of, read_arguments
from raypo.data.records import Record
from raypo.data.transforms import TRANSFORMS, Reader
from raypo.errors import StudyError, nearest


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
        allowed = ", ".join(TRANSFORMS)
        problems.append(f"{where}: no such transform {name!r}; allowed: {allowed}{nearest(name, TRANSFORMS)}")
        return None
    model = arguments_of(TRANSFORMS[name])
    if not isinstance(given, Mapping):
        values = given if isinstance(given, list | tuple) else [given]
        if len(values) > len(model.model_fields):
            problems.append(f"{where}.{name}: takes at most {len(model.model_fields)} values, got {values!r}")
            return None
        given = dict(zip(model.model_fields, values, strict=False))
    before = len(problems)
    arguments = read_arguments(model, given, f"{where}.{name}", problems)
    return Transform(name, arguments) if len(problems) == before else None
