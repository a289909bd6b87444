"""What judges write down: lines shared by all processes of a search, and marks by the content of what was asked."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from raypo.artifacts import hash_of


def content_key(identity: Mapping[str, Any], item: Any) -> str:
    """Hash of a judge's identity and of the texts it is asked about, in their order."""
    return hash_of({"judge": identity, "item": item})


class SharedLines:
    """A folder of JSON lines files, one for each process that writes.

    Nobody waits for a lock, a killed process loses at most its last line, and every process reads what others wrote.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._read: dict[Path, int] = {}
        self._own: Path | None = None

    def new(self) -> Iterator[Any]:
        """Lines of all processes that were not read before, this one's own included."""
        for path in sorted(self.folder.glob("*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                whole = file.read().rpartition(b"\n")[0]
            self._read[path] = self._read.get(path, 0) + len(whole) + bool(whole)
            for line in whole.splitlines():
                with contextlib.suppress(ValueError):  # torn, where a disk was full
                    yield json.loads(line)

    def append(self, line: Any) -> None:
        """Write one line; after one that found no room the next begins another file."""
        if self._own is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._own = self.folder / f"{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"
        try:
            with self._own.open("a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError:
            self._own = None
            raise


class MarkCache:
    """Marks of all judges that share a folder; safe for many processes at once."""

    def __init__(self, folder: Path) -> None:
        self._lines = SharedLines(folder)
        self._marks: dict[str, float] = {}

    def look_up(self, keys: Iterable[str]) -> dict[str, float]:
        """The marks that are known of these keys, those of other processes included."""
        self._marks.update(self._lines.new())
        return {key: self._marks[key] for key in keys if key in self._marks}

    def put(self, key: str, mark: float) -> None:
        """Remember a mark, in memory and on disk."""
        self._lines.append([key, mark])
        self._marks[key] = mark
