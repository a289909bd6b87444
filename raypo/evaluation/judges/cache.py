"""Marks on disk, by the content of what was asked.

A folder of JSON lines files, one for each process that writes: nobody waits for a lock, a killed process loses at most
its last line, and every reader sees what others have finished.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def content_key(identity: Mapping[str, Any], item: Mapping[str, Any]) -> str:
    """Hash of a judge's identity and of the texts it is asked about, in their order."""
    text = json.dumps([identity, item], sort_keys=True, default=dict)
    return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


class MarkCache:
    """Marks of all judges that share a folder; safe for many processes at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._marks: dict[str, float] = {}
        self._read: dict[Path, int] = {}
        self._own: Path | None = None

    def look_up(self, keys: Iterable[str]) -> dict[str, float]:
        """The marks that are known of these keys, those of other processes included."""
        for path in sorted(self.folder.glob("*.jsonl")):
            self._read_on(path)
        return {key: self._marks[key] for key in keys if key in self._marks}

    def put(self, key: str, mark: float) -> None:
        """Remember a mark, in memory and on disk."""
        if self._own is None or not self._own.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._own = self.folder / f"{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"
        with self._own.open("a") as file:
            file.write(json.dumps([key, mark]) + "\n")
        self._marks[key] = mark

    def _read_on(self, path: Path) -> None:
        """Read what was appended to a file since last time, up to its last whole line."""
        with path.open("rb") as file:
            file.seek(self._read.get(path, 0))
            whole = file.read().rpartition(b"\n")[0]
        for line in whole.splitlines():
            key, mark = json.loads(line)
            self._marks[key] = mark
        self._read[path] = self._read.get(path, 0) + len(whole) + bool(whole)
