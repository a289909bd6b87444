"""One row as a file gives it, with the place it came from, for messages that name file and row."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raypo.data.records import Text, is_blank
from raypo.errors import DataError, nearest

ROLES = {"human": "user", "prompter": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant"}


@dataclass(frozen=True)
class Dropped:
    """A row that its data set is known to hold and that teaches nothing; it is counted by its reason."""

    reason: str


class Blank(DataError):
    """A text that must be there is empty or missing."""


@dataclass(frozen=True)
class Row:
    """Values of one row under raypo's column names.

    `columns` maps our names to the file's: a column, a path into nested values ("answer.text") or a template with
    braces ("{instruction}\\n{input}").
    """

    values: Mapping[str, Any]
    where: str
    columns: Mapping[str, str]

    def get(self, *names: str) -> Any:
        """The first of these columns that holds something, else None."""
        for name in names:
            value = self._look_up(self.columns.get(name, name), mapped=name in self.columns)
            if value is not None and value != "":
                return value
        return None

    def has(self, *names: str) -> bool:
        """Whether all these columns are there, filled or not."""
        return all(name in self.columns or name in self.values for name in names)

    def text(self, *names: str) -> Text:
        """A text that must be there: a string or a conversation."""
        value = self.get(*names)
        text = as_text(value, self.where) if value is not None else ""
        if is_blank(text):
            raise Blank(
                f"{self.where}: no {names[0]}; every row needs one, found columns {self.found()}; "
                "data.format: {FORMAT: {empty: drop}} leaves such rows out and counts them"
            )
        return text

    def string(self, *names: str) -> str:
        """A string, empty where there is none."""
        value = self.get(*names)
        return "" if value is None else str(value)

    def number(self, *names: str) -> float:
        """A number, nan where there is none."""
        value = self.get(*names)
        if value is None:
            return math.nan
        try:
            return float(value)
        except (TypeError, ValueError):
            raise DataError(f"{self.where}: {names[0]} must be a number, got {value!r}") from None

    def items(self, *names: str) -> list[Any]:
        """A list with at least one item."""
        value = self.get(*names)
        if not isinstance(value, list | tuple) or not value:
            raise DataError(f"{self.where}: {names[0]} must be a list, got {value!r}; found columns {self.found()}")
        return list(value)

    def _look_up(self, path: str, mapped: bool) -> Any:
        if mapped and "{" in path:
            return self._fill(path)
        if path in self.values:
            return self.values[path]
        value: Any = self.values
        for part in path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if mapped and value is None and path.split(".")[0] not in self.values:
            self._unknown(path.split(".")[0])
        return value

    def _fill(self, template: str) -> str:
        try:
            return template.format_map({key: "" if value is None else value for key, value in self.values.items()})
        except KeyError as error:
            return self._unknown(str(error.args[0]))
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            raise DataError(
                f"{self.where}: data.columns has the template {template!r}, which cannot be filled: {error}; "
                "write names of columns in braces, and {{ and }} for braces that stay"
            ) from error

    def _unknown(self, column: str) -> Any:
        hint = nearest(column, self.values)
        raise DataError(f"{self.where}: data.columns names {column!r}, found columns {self.found()}{hint}")

    def found(self) -> str:
        """The names of its columns, for messages."""
        return ", ".join(sorted(map(str, self.values))) or "none"


def as_text(value: Any, where: str) -> Text:
    """A string, or a conversation from any of the usual spellings of messages."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        value = [value]
    if isinstance(value, list | tuple) and all(isinstance(item, Mapping) for item in value):
        return tuple(_message(item, where) for item in value)
    raise DataError(f"{where}: a text must be a string or a list of messages, got {type(value).__name__} {value!r:.80}")


def _message(item: Mapping[str, Any], where: str) -> dict[str, Any]:
    role = item.get("role", item.get("from"))
    said = item.get("content", item.get("value"))
    if not isinstance(role, str) or (said is None and not item.get("tool_calls")):
        raise DataError(f"{where}: a message needs a role and content, got {dict(item)!r:.120}")
    others = {k: v for k, v in item.items() if k not in ("role", "from", "content", "value") and v is not None}
    return {"role": ROLES.get(role, role), "content": _content(said, where), **others}


def _content(said: Any, where: str) -> str:
    """What a message says: a string, or a list of parts that are all text."""
    if said is None or isinstance(said, str):
        return said or ""
    parts = said if isinstance(said, list | tuple) else [said]
    texts = [part.get("text") for part in parts if isinstance(part, Mapping) and part.get("type", "text") == "text"]
    told = [text for text in texts if isinstance(text, str)]
    if len(told) < len(parts):
        raise DataError(
            f"{where}: a message's content must be a string or a list of parts {{type: text, text: ...}}, "
            f"got {said!r:.120}; images and other parts cannot be trained on"
        )
    return "".join(told)
