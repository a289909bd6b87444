"""Reading YAML as people write it: `1e-7` is a number, `on`, `010` and `1:30` are words (not so in YAML 1.1).

No key stands twice.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from raypo.errors import StudyError


class _Loader(yaml.SafeLoader):
    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, AttributeError) as error:  # of a scalar that is not what its tag says
            problem = f"no {node.tag.rpartition(':')[2]}: {error}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error


class _Dumper(yaml.SafeDumper):
    """Quotes what either YAML takes for something else than text."""


BOOL, FLOAT, INT = (f"tag:yaml.org,2002:{name}" for name in ("bool", "float", "int"))
OWN = {BOOL, FLOAT, INT, "tag:yaml.org,2002:timestamp"}
"""What YAML 1.1 sees more in than people do: `on` is true to it, `010` eight, `1:30` ninety, `2024-01-02` a date."""
_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if tag not in OWN]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(BOOL, re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(INT, re.compile("^[-+]?(0|[1-9][0-9_]*|0b[01_]+|0x[0-9a-fA-F_]+)$"), list("-+0123456789"))
NUMBER = re.compile(
    r"^[-+]?(\d[\d_]*\.?[\d_]*|\.[\d_]+)[eE][-+]?\d+$|^[-+]?(\d[\d_]*\.[\d_]*|\.\d[\d_]*)$"
    r"|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"
)
for reads_or_writes in (_Loader, _Dumper):
    reads_or_writes.add_implicit_resolver(FLOAT, NUMBER, list("-+0123456789."))


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    seen: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, Hashable):
            problem = f"a key must be a word or a number, got {key!r}; text that begins with a brace needs quotes"
            raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
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
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120))
