"""Reading YAML as people write it: `1e-7` is a number and `on` a word (not so in YAML 1.1), no key stands twice."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from raypo.errors import StudyError


class _Loader(yaml.SafeLoader):
    pass


BOOL = "tag:yaml.org,2002:bool"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if tag != BOOL]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(BOOL, re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(\d+\.\d*|\.\d+|\d+)([eE][-+]?\d+)$|^[-+]?(\d+\.\d*|\.\d+)$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    seen: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", key_node.start_mark)
        seen[key] = loader.construct_object(value_node, deep=True)
    return seen


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def load(text: str, where: str) -> Any:
    """Parse YAML text; `where` names it in errors.

    Raises:
        StudyError: the text is not YAML, or a key stands twice.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise StudyError(f"{where}:{line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise StudyError(f"{where}: not valid YAML: {error}") from None


def load_file(path: Path) -> Any:
    """Parse a YAML file.

    Raises:
        StudyError: the file is missing, unreadable or not YAML.
    """
    try:
        return load(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise StudyError(
            f"{path}: no such file; give the path of a study file, such as search_spaces/quickstart.yaml"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: cannot be read: {error}") from None


def dump(value: Any) -> str:
    """YAML text of plain data, keys in their own order."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120)
