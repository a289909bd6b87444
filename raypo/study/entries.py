"""Reading the `methods` section: every hyperparameter is checked against the method's own signature."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from raypo import yaml
from raypo.errors import MethodError, StudyError, nearest
from raypo.methods import METHODS, REQUIRED, Hyperparameter, Method, load_method
from raypo.spaces import Space, Value, parse
from raypo.study.study import NAME, TRAINING_AXES, Entry
from raypo.study.training import Training, two_lengths
from raypo.study.values import check_whole

KEYS = ("method", "use", "priors", "conditions")
"""What a method's section says beside hyperparameters and training settings."""


def read_entries(section: Any, folder: Path | None, allow_code: bool, problems: list[str]) -> dict[str, Entry]:
    """The methods of a study; whatever is wrong with them goes into `problems`, one line each."""
    if isinstance(section, list):
        section = {str(name): {} for name in section}
    if not isinstance(section, Mapping) or not section:
        problems.append(
            f"methods: needs at least one method, got {section!r}; such as dpo: {{beta: {{log_uniform: [0.01, 1]}}}}"
        )
        return {}
    entries = {}
    for label, body in section.items():
        entry = _entry(str(label), body, folder, allow_code, problems)
        if entry is not None:
            entries[str(label)] = entry
    return entries


def _entry(label: str, body: Any, folder: Path | None, allow_code: bool, problems: list[str]) -> Entry | None:
    where = f"methods.{label}"
    if not NAME.match(label):
        problems.append(f"{where}: got {label!r}; a label has letters, digits, '_', '-' and '.'")
        return None
    if not isinstance(body, Mapping | None):
        problems.append(f"{where}: needs hyperparameters by name, got {body!r}")
        return None
    values = dict(body or {})
    try:
        if "use" in values:
            values = {**_published(str(values.pop("use")), f"{where}.use", folder), **values}
        reference = str(values.pop("method", label))
        method = _method(reference, where, allow_code)
    except (StudyError, MethodError) as error:
        problems.append(str(error))
        return None
    priors = _priors(values.pop("priors", None), where, problems)
    conditions = values.pop("conditions", None) or {}
    hyperparameters: dict[str, Value | Space] = {}
    training: dict[str, Value | Space] = {}
    if (problem := two_lengths(values)) is not None:
        problems.append(f"{where}: {problem}")
    for name, value in values.items():
        _sort_in(method, f"{where}.{name}", name, value, hyperparameters, training, problems)
    for name, spec in method.hyperparameters.items():
        if name not in hyperparameters and name not in values:
            if spec.default is REQUIRED:
                problems.append(
                    f"{where}.{name}: missing, and {method.name} has no default for it; allowed: {spec.allowed}"
                )
            else:
                hyperparameters[name] = spec.default  # type: ignore[assignment]
    problems += [f"{where}.conditions{problem}" for problem in _unconditional(conditions, method, hyperparameters)]
    return Entry(label, method, hyperparameters, training, priors, reference, conditions)


def _priors(section: Any, where: str, problems: list[str]) -> tuple[dict[str, Value], ...]:
    """A list of points; their names are checked once all axes of the study are known."""
    points = [] if section is None else section
    if not isinstance(points, list) or not all(isinstance(point, Mapping) for point in points):
        problems.append(f"{where}.priors: needs a list of points, got {section!r}; such as [{{beta: 0.1, lr: 5e-7}}]")
        return ()
    return tuple({str(name): value for name, value in point.items()} for point in points)


def _unconditional(conditions: Any, method: Method, hyperparameters: Mapping[str, Value | Space]) -> Iterator[str]:
    """Why a condition cannot be: only a searched hyperparameter that has a default may be left out."""
    if not isinstance(conditions, Mapping) or not all(isinstance(rule, str) for rule in conditions.values()):
        yield f": needs an expression for each hyperparameter, got {conditions!r}; such as tau: update == hard"
        return
    searched = [name for name, value in hyperparameters.items() if isinstance(value, Space)]
    for name in conditions:
        if name not in searched:
            yield f".{name}: {method.name} searches no such hyperparameter here; there are {', '.join(searched)}"
        elif method.hyperparameters[name].default is REQUIRED:
            yield f".{name}: {method.name} has no default for it, so it cannot be left out; remove the condition"


def _sort_in(
    method: Method,
    where: str,
    name: str,
    value: Any,
    hyperparameters: dict[str, Value | Space],
    training: dict[str, Value | Space],
    problems: list[str],
) -> None:
    try:
        if name in method.hyperparameters:
            hyperparameters[name] = _checked(method.hyperparameters[name], parse(value), method.name)
        elif name in TRAINING_AXES:
            if (read := _training_value(name, value)) is not None:
                training[name] = read
        else:
            known = [*method.hyperparameters, *TRAINING_AXES]
            problems.append(
                f"{where}: {method.name} has no such hyperparameter; allowed: {', '.join(known)}{nearest(name, known)}"
            )
    except (ValueError, MethodError) as error:
        problems.append(f"{where}: {str(error).removeprefix(f'{method.name}.{name}: ')}")


def _checked(spec: Hyperparameter, value: Value | Space, method: str) -> Value | Space:
    """Every value of an axis must be one that the method accepts."""
    if not isinstance(value, Space):
        return spec.parse(value, method)
    parsed = parse({value.form: [spec.parse(v, method) for v in value.values]})
    assert isinstance(parsed, Space)
    if spec.type is int:
        check_whole(parsed)
    return parsed


def _training_value(name: str, value: Any) -> Value | Space:
    field = Training.model_fields[name]
    try:
        return TypeAdapter(field.rebuild_annotation()).validate_python(value)
    except ValidationError as error:
        raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None


def _method(name: str, where: str, allow_code: bool) -> Method:
    if ":" in name:
        method = load_method(name, allow_code=allow_code)
        if taken := [known for known in method.hyperparameters if known in (*TRAINING_AXES, *KEYS)]:
            raise StudyError(
                f"{where}: {name} calls a hyperparameter {taken[0]!r}, which is a key of every method; rename it"
            )
        return method
    if name not in METHODS:
        raise StudyError(f"{where}: unknown method {name!r}; allowed: {', '.join(METHODS)}{nearest(name, METHODS)}")
    return METHODS[name]


def _published(use: str, where: str, folder: Path | None) -> dict[str, Any]:
    """The published space that `use: methods/dpo` names, looked up beside the study file and above it."""
    start = (folder or Path.cwd()).resolve()
    tried = [root / f"{use}.yaml" for root in (start, *start.parents, Path.cwd() / "search_spaces")]
    path = next(filter(Path.is_file, tried), None)
    if path is None:
        raise StudyError(f"{where}: {use}: no file {use}.yaml beside the study file or above it")
    content = yaml.load_file(path)
    keys = list(content) if isinstance(content, Mapping) else []
    if not {"method"} <= set(keys) <= {"method", "space", "priors"} or not isinstance(
        content.get("space", {}), Mapping
    ):
        found = ", ".join(map(str, keys)) or repr(content)
        raise StudyError(f"{where}: {path} is no published space, got {found:.80}; it has method, space and priors")
    return {"method": content["method"], **content.get("space", {}), "priors": content.get("priors")}
