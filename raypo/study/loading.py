"""Loading a study file: overrides, every problem at once, one line each."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from raypo import yaml
from raypo.errors import StudyError, nearest
from raypo.spaces import FORMS, Space, parse
from raypo.study.entries import read_entries
from raypo.study.study import TRAINING_AXES, Study


def load(path: Path, overrides: Sequence[str] = (), *, files: Sequence[Path] = (), allow_code: bool = False) -> Study:
    """Read, override and check a study file.

    Args:
        overrides: `a.b=value` texts, the value written as in YAML.
        files: files of `a.b: value`, applied in their order and before `overrides`.

    Raises:
        StudyError: anything is wrong; one line a problem, each with the path of the key, what was found and what
            is allowed.
    """
    content = yaml.load_file(path)
    if not isinstance(content, dict):
        raise StudyError(f"{path}: a study file is a mapping of sections, got {type(content).__name__}")
    content.setdefault("name", path.stem)
    for file in files:
        override_with(content, file)
    for text in overrides:
        override(content, text)
    return build(content, str(path), folder=path.parent, allow_code=allow_code)


def build(content: dict[str, Any], where: str, *, folder: Path | None = None, allow_code: bool = False) -> Study:
    """Check the plain content of a study file; see `load`."""
    problems: list[str] = []
    content = dict(content)
    if content.pop("allow_code", None) is not None:
        problems.append("allow_code: no file may allow itself to run code; give --allow-code to the command")
    entries = read_entries(content.pop("methods", None), folder, allow_code, problems)
    _read_transforms(content, problems)
    study = None
    try:
        study = Study.model_validate({**content, "methods": entries, "allow_code": allow_code})
    except ValidationError as error:
        problems[:0] = [_line(item) for item in error.errors()]
    if study is not None and not problems:
        problems += _impossible(study)
    if problems:
        raise StudyError("\n".join(f"{where}: {problem}" for problem in problems))
    assert study is not None
    return study


def override(content: dict[str, Any], text: str) -> None:
    """Apply one `a.b=value`; a number between dots indexes a list."""
    path, equals, value = text.partition("=")
    if not equals:
        raise StudyError(f"--set {text}: needs the form key=value, such as search.trials=4")
    parsed = yaml.load(value, f"--set {path}")
    _place(content, path, parsed, f"--set {text}", empties=value.strip() in ("null", "~"))


def override_with(content: dict[str, Any], file: Path) -> None:
    """Apply a file of overrides, `a.b: value` line by line; a section named as a whole replaces the study's."""
    found = yaml.load_file(file)
    if not isinstance(found, dict):
        raise StudyError(f"{file}: overrides are keys with values, got {type(found).__name__}; write search.trials: 4")
    for path, value in found.items():
        _place(content, str(path), value, f"{file}: {path}", empties=value is None)


def _place(content: dict[str, Any], path: str, value: Any, where: str, *, empties: bool) -> None:
    keys = path.strip().split(".")
    if not all(keys):
        raise StudyError(f"{where}: a key is missing, got {path!r}; write it as in search.trials")
    node: Any = content
    for key in keys[:-1]:
        if isinstance(node, dict) and node.get(key) is None:
            node[key] = {}
        node = node[_index(node, key, where) if isinstance(node, list) else key]
        if not isinstance(node, dict | list):
            raise StudyError(f"{where}: {key} holds {node!r}, which has no keys of its own")
    if isinstance(node, list):
        node[_index(node, keys[-1], where)] = value
    elif empties and keys[0] == "methods" and len(keys) == 2:
        node.pop(keys[-1], None)
    else:
        node[keys[-1]] = value
        replaced = {"epochs": "steps", "steps": "epochs"}.get(keys[-1])
        if replaced and value is not None and (keys[0], len(keys)) in (("training", 2), ("methods", 3)):
            node.pop(replaced, None)  # what is overridden is how long to train, in either unit


def _index(node: list[Any], key: str, where: str) -> int:
    if not key.isdigit() or int(key) >= len(node):
        raise StudyError(f"{where}: {key!r} is no index of a list of {len(node)}")
    return int(key)


def _read_transforms(content: dict[str, Any], problems: list[str]) -> None:
    """Axes inside `data.transforms` become spaces before the section is checked."""
    data = content.get("data")
    if not isinstance(data, Mapping) or not isinstance(data.get("transforms"), list):
        return
    read = []
    for i, transform in enumerate(data["transforms"]):
        if not isinstance(transform, Mapping):
            problems.append(f"data.transforms.{i}: each transform is one key with its setting, got {transform!r}")
            continue
        read.append({name: _maybe_space(value) for name, value in transform.items()})
    content["data"] = {**data, "transforms": read}


def _maybe_space(value: Any) -> Any:
    if isinstance(value, Mapping) and len(value) == 1 and next(iter(value)) in FORMS:
        return parse(value)
    return value


def _line(item: Any) -> str:
    """One pydantic error as `path: what is wrong, got X; what is allowed`."""
    location = [str(part) for part in item["loc"]]
    path = ".".join(location)
    kind, found = item["type"], item.get("input")
    if kind == "extra_forbidden":
        allowed = _fields(location[:-1])
        return f"{path}: no such key; allowed: {', '.join(allowed)}{nearest(location[-1], allowed)}"
    if kind == "missing":
        return f"{path}: missing, and it has no default"
    message = item["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if kind == "literal_error":
        expected = str(item["ctx"]["expected"])
        quoted = re.findall("'([^']*)'", expected)
        message = f"got {found!r}; allowed: {expected}{nearest(found, quoted)}"
        return f"{path}: {message}"
    if kind == "value_error":
        return f"{path}: {message}"
    shown = repr(found) if not isinstance(found, dict | BaseModel) else "a mapping"
    return f"{path}: {message}, got {shown}"


def _fields(location: list[str]) -> list[str]:
    """The keys that the section at this path may have."""
    model: Any = Study
    for part in location:
        field = model.model_fields.get(part)
        candidates = [] if field is None else [field.annotation, *get_args(field.annotation)]
        sections = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not sections:
            return []
        model = sections[0]
    return [name for name in model.model_fields if name != "allow_code"]


def _impossible(study: Study) -> list[str]:
    """Combinations of keys that cannot work together."""
    problems = []
    if study.model.dtype == "bf16" and study.resources.zero_stage == 0:
        problems.append(
            "resources.zero_stage: bf16 needs stage 1 or higher, got 0 (stage 0 takes a phantom first step)"
        )
    if study.search.sampler == "grid":
        for label in study.methods:
            for name, space in study.space(label).items():
                if space.form not in ("choice", "int"):
                    problems.append(f"methods.{label}.{name}: sampler grid needs choice or int, got {space.form}")
    problems += [*_searched_twice(study), *_misnamed_priors(study)]
    for label in study.methods:
        sizes = study.axes(label)["batch_size"]
        for size in sizes.values if isinstance(sizes, Space) else (sizes,):
            if int(size) < study.resources.workers:
                problems.append(
                    f"methods.{label}.batch_size: got {size}, fewer than the {study.resources.workers} workers of a "
                    "slot; raise batch_size or lower resources.workers"
                )
    sources = {
        "data": study.data.source,
        "objective.prompts": study.objective.prompts.source,
        "objective.judge": study.objective.judge.source,
        "confirm.prompts": study.confirm.prompts and study.confirm.prompts.source,
    }
    for where, source in sources.items():
        if source is not None and ":" in source and "/" not in source and not study.allow_code:
            problems.append(f"{where}.source: {source!r} names Python code; give --allow-code to run it")
    function = study.objective.judge.function
    if function is not None and ":" in function and not study.allow_code:
        problems.append(f"objective.judge.function: {function!r} names Python code; give --allow-code to run it")
    return problems


def _searched_twice(study: Study) -> Iterator[str]:
    """Transforms whose axes would have one name."""
    searched = [name for t in study.data.transforms for name, value in t.items() if isinstance(value, Space)]
    for name, times in Counter(searched).items():
        if times > 1:
            yield f"data.transforms: {times} axes of {name} would all be searched as data.{name}; keep one"


def _misnamed_priors(study: Study) -> Iterator[str]:
    for label, entry in study.methods.items():
        known = [*dict.fromkeys([*study.axes(label), *TRAINING_AXES])]
        for i, prior in enumerate(entry.priors):
            for name in prior.keys() - set(known):
                where = f"methods.{label}.priors.{i}.{name}"
                yield f"{where}: no such setting; there are {', '.join(known)}{nearest(name, known)}"
