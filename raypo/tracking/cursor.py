"""What has reached W&B already: one small file beside the record, so that nothing is sent twice.

Losing it costs time and no data: runs are then sent again under a new token.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from raypo.errors import StorageError
from raypo.search.folders import CURSOR


@dataclass
class Cursor:
    """The token in the ids of a search's runs and, per destination, a fingerprint of each run that was sent whole."""

    path: Path
    token: str
    sent: dict[str, dict[str, str]] = field(default_factory=dict)

    @staticmethod
    def open(folder: Path) -> Cursor:
        """Read a search's cursor, or begin one."""
        path = folder / CURSOR
        if not path.exists():
            cursor = Cursor(path, secrets.token_hex(3))
            cursor.save()
            return cursor
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            return Cursor(path, known["token"], known["sent"])
        except (ValueError, KeyError, TypeError) as error:
            raise StorageError(f"{path}: cannot be read, got {error}; delete it to send all runs anew") from error

    def has(self, destination: str, name: str, fingerprint: str) -> bool:
        """Whether a run has been sent as it is now."""
        return self.sent.get(destination, {}).get(name) == fingerprint

    def mark(self, destination: str, name: str, fingerprint: str) -> None:
        """Remember that a run has been sent, before the next is begun."""
        self.sent.setdefault(destination, {})[name] = fingerprint
        self.save()

    def save(self) -> None:
        """Replace the file in one move."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".tmp")
        draft.write_text(json.dumps({"token": self.token, "sent": self.sent}, indent=1), encoding="utf-8")
        os.replace(draft, self.path)
