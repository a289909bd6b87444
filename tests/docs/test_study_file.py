"""The page of the study file has every key that the code reads and no other, with its default; examples can be read."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from raypo import yaml
from raypo.data.arguments import GIVEN_BY_US
from raypo.data.formats import FORMATS
from raypo.data.specs import parse_transforms
from raypo.data.transforms import TRANSFORMS
from raypo.evaluation.judges.templates import TEMPLATES
from raypo.search.constraints import _FUNCTIONS
from raypo.search.drawing import rules_of
from raypo.search.measuring import unmeasurable
from raypo.search.targets import targets
from raypo.spaces import FORMS, Space
from raypo.study import TRAINING_AXES, Study, build
from raypo.training.settings import OptimizerName, Schedule

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "study_file.md").read_text()
ROW = re.compile(r"^\| `(\w+)` \| (.+?) \| (.+?) \| (.+) \|$", re.MULTILINE)
EXAMPLES = {
    f"{page.stem}-{number}": block
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    for number, block in enumerate(re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL))
    if page.stem != "own_method"  # whose example is a published space
}
BASE: dict[str, Any] = {
    "name": "page",
    "model": {"path": "quickstart"},
    "data": {"source": "quickstart"},
    "methods": {"dpo": {"beta": {"log_uniform": [0.01, 1]}}},
    "objective": {"judge": {"kind": "rule", "function": "quickstart"}},
}


def parts(annotation: Any) -> Iterator[Any]:
    """A type and everything that it is made of."""
    yield annotation
    for inner in get_args(annotation) if get_origin(annotation) is not Literal else ():
        yield from parts(inner)


def sections(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Every section of a study file by its path; "" is the file itself."""
    yield path, model
    for name, field in model.model_fields.items():
        for part in parts(field.annotation) if name != "methods" else ():
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from sections(part, f"{path}.{name}".lstrip("."))


def documented() -> dict[str, str]:
    """The page's text on each section, by path."""
    found = {}
    for heading, text in re.findall(r"^##+ (.+)\n((?:(?!^##).*\n?)*)", PAGE, re.MULTILINE):
        found.update(dict.fromkeys(re.findall(r"`([\w.]+)`", heading) or [heading], text))
    return {"" if path == "Top level" else path: text for path, text in found.items()}


def fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    return {name: field for name, field in model.model_fields.items() if name != "allow_code"}


SECTIONS = dict(sections(Study))


def test_the_page_has_the_sections_of_the_code() -> None:
    assert set(documented()) == {*SECTIONS, "methods", "Transforms", "Formats"}


@pytest.mark.parametrize("path", SECTIONS)
def test_every_key_stands_there_with_its_default_and_with_what_it_may_be(path: str) -> None:
    rows = {key: (value, default) for key, value, default, _ in ROW.findall(documented()[path])}
    assert list(rows) == list(fields(SECTIONS[path]))
    for key, field in fields(SECTIONS[path]).items():
        value, default = rows[key]
        if field.is_required():
            # The name alone has a default that is not in the model: it comes from the file.
            assert default == ("the file's name" if (path, key) == ("", "name") else "required"), key
        else:
            read = yaml.load(default.strip("`"), key)
            default = field.get_default(call_default_factory=True)
            assert TypeAdapter(field.rebuild_annotation()).validate_python(read) == default, key
        named = {str(name) for p in parts(field.annotation) if get_origin(p) is Literal for name in get_args(p)}
        if named:
            assert named == set(re.findall(r"`(.+?)`", value) or value.split(", ")), key


def test_names_that_other_modules_hold() -> None:
    training = {key: value for key, value, _, _ in ROW.findall(documented()["training"])}
    assert tuple(key for key, value in training.items() if value.startswith("axis")) == TRAINING_AXES
    assert re.findall(r"`(\w+)`", training["optimizer"]) == list(get_args(OptimizerName))
    assert set(re.findall(r"`(\w+)`", training["schedule"])) == set(get_args(Schedule))
    judge = {key: value for key, value, _, _ in ROW.findall(documented()["objective.judge"])}
    assert set(re.findall(r"`(\w+)`", judge["template"])) == set(TEMPLATES)
    assert set(re.findall(r"`\{(\w+): \[", PAGE)) == set(FORMS)
    assert " ".join(sorted(_FUNCTIONS)) in PAGE


def settings(heading: str) -> dict[str, dict[str, Any]]:
    """What a table says of each name: its settings with their defaults, `...` for those that have none."""
    found = {}
    for names, said in re.findall(r"^\| (`.+?`) \| ?(.*?) ?\| .+ \|$", documented()[heading], re.MULTILINE):
        own = re.findall(r"`(\w+)(?:: ([^`]+))?`", said)
        values = {name: yaml.load(default, name) if default else ... for name, default in own}
        found.update(dict.fromkeys(re.findall(r"`(\w+)`", names), values))
    return found


def keywords(function: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    own = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in GIVEN_BY_US]
    return {p.name: ... if p.default is p.empty else p.default for p in own}


def test_settings_of_transforms_and_formats() -> None:
    assert settings("Transforms") == {name: keywords(function) for name, function in TRANSFORMS.items()}
    own = {name: keywords(function) for name, function in FORMATS.items()}
    assert settings("Formats") == {name: values for name, values in own.items() if values}


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_of_the_documentation_is_a_study(example: str) -> None:
    content = dict(BASE)
    for name, value in yaml.load(EXAMPLES[example], example).items():
        nested = isinstance(value, dict) and name != "methods"
        content[name] = {**content.get(name, {}), **value} if nested else value
    study = build(content, example)
    assert targets(study)
    assert list(unmeasurable(study)) == []
    for label in study.methods:
        rules = rules_of(study, label)
        assert set(rules.conditions) == set(study.methods[label].conditions)
    first = {f"data.{k}": v.values[0] for t in study.data.transforms for k, v in t.items() if isinstance(v, Space)}
    assert len(parse_transforms(study.data_transforms(first))) == len(study.data.transforms)
