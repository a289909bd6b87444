"""Replies of a chat model on file: recorded once, read without a network."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raypo.errors import JudgeError
from raypo.evaluation.judges.cache import content_key
from raypo.evaluation.judges.chat import ChatServer, Rejected
from raypo.evaluation.judges.templates import Reply


class Recorded:
    """Replies on file: answers from a file alone, or from a server while writing one."""

    def __init__(self, path: Path, server: ChatServer | None = None, model: str = "") -> None:
        self.path, self.server, self.model = Path(path), server, model
        self._lock = threading.Lock()
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self._replies = {line["key"]: Reply(**line["reply"]) for line in map(json.loads, lines)}
        if server is None and not self._replies:
            raise JudgeError(f"{path}: no recorded replies here; record them with a server first")

    def ask(self, messages: list[dict[str, str]], decoding: Mapping[str, Any]) -> Reply:
        """The recorded reply, else the server's; raises Rejected where there is neither."""
        key = content_key({"model": self.model}, [messages, decoding])
        if key in self._replies:
            return self._replies[key]
        if self.server is None:
            raise Rejected(f"{self.path.name} holds no reply to this question")
        reply = self.server.ask(messages, decoding)
        with self._lock, self.path.open("a") as file:
            file.write(json.dumps({"key": key, "reply": asdict(reply)}) + "\n")
        self._replies[key] = reply
        return reply
