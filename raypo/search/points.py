"""Points that somebody names: in a command, or published with a method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.study import StudyDirection

from raypo import yaml
from raypo.errors import StudyError, nearest
from raypo.search.drawing import PRIOR, rules_of, sampler_of
from raypo.search.ledger import Ledger
from raypo.search.view import fits
from raypo.spaces import Space, Value
from raypo.study import Study


def assignments(texts: list[str]) -> dict[str, Any]:
    """`name=value` texts, each value as YAML writes it."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise StudyError(f"--set {text}: needs the form name=value, such as beta=0.02")
        found[name.strip()] = yaml.load(value, f"--set {name}")
    return found


def check_label(study: Study, label: str) -> None:
    """Refuse a method that a search has not."""
    if label not in study.methods:
        raise StudyError(
            f"{label}: no such method in this search; there are {', '.join(study.methods)}"
            f"{nearest(label, study.methods)}"
        )


def point_of(study: Study, label: str, values: Mapping[str, Any]) -> dict[str, Value]:
    """The searched values among `values`; an axis that they leave out is drawn.

    Raises:
        StudyError: a name or value that no trial of this method can have, one line a problem.
    """
    check_label(study, label)
    space, fixed, rules = study.space(label), study.fixed(label), rules_of(study, label)
    problems = []
    for name, value in values.items():
        if name in space and not fits({name: value}, {name: space[name].distribution()}):
            problems.append(f"{label}.{name}: got {value!r}, outside of the axis {space[name].written()}")
        elif name in fixed and fixed[name] != value:
            problems.append(f"{label}.{name}: got {value!r}, and it is {fixed[name]!r} in every trial of this search")
        elif name not in space and name not in fixed:
            known = [*space, *fixed]
            problems.append(f"{label}.{name}: no such setting; there are {', '.join(known)}{nearest(name, known)}")
    point = {name: value for name, value in values.items() if name in space}
    if not problems:
        problems = [
            f"{label}.{name}: got {point[name]!r}, and it means something only where {rules.conditions[name].text}"
            for name in rules.idle(point)
        ]
    if not problems and space.keys() <= point.keys() and not rules.allows(point):
        problems.append(f"{label}: {point} breaks a constraint of this search: {'; '.join(study.search.constraints)}")
    elif not problems and not space.keys() <= point.keys():
        problems += _no_room(study, label, point)
    if problems:
        raise StudyError("\n".join(problems))
    return point


def _no_room(study: Study, label: str, given: Mapping[str, Value]) -> list[str]:
    """Why no point of the space has the values `given`; nothing where the sampler finds one."""
    try:
        sampler_of(study, label).suggest(0, [], label, [StudyDirection.MAXIMIZE], given)
    except StudyError as error:
        return [f"{label}: no trial of this search can have {dict(given)}: {error}"]
    return []


def priors_of(study: Study, label: str) -> tuple[list[dict[str, Value]], list[str]]:
    """The published best points of a method, each once, and why this search has no room for the others."""
    left_out = []
    points: list[dict[str, Value]] = []
    for values in study.methods[label].priors:
        searched = {name: value for name, value in values.items() if name in study.space(label)}
        idle = rules_of(study, label).idle(searched)
        searched = {name: value for name, value in searched.items() if name not in idle}
        try:
            point = point_of(study, label, searched)
        except StudyError as error:
            left_out.append(str(error))
            continue
        if point and point not in points:
            points.append(point)
    return points, left_out


def enqueue_priors(study: Study, ledger: Ledger, label: str, at_most: int | None) -> str | None:
    """Enqueue the published best points of a method, once; says which of them this search has no room for."""
    points, left_out = priors_of(study, label)
    for index, point in enumerate(points[:at_most]):
        ledger.enqueue(label, point, f"{PRIOR}{index}")
    if left_out:
        return f"{label}: {len(left_out)} published points lie outside of this search: {'; '.join(left_out)}"
    return None


def first_point(axes: Mapping[str, Any]) -> dict[str, Any]:
    """A point of a space, for what does not depend on which: the first value of every axis."""
    return {name: value.values[0] if isinstance(value, Space) else value for name, value in axes.items()}
