"""A lease on one artifact while it is being made, so that others wait instead of making it too.

A lease is economy, not safety: commits are atomic and idempotent, so two makers at once waste work and harm nothing.
That is why a takeover needs no clock that all machines share: a waiter calls a lease dead when its process is gone
(same host) or when its heartbeat has not changed for a while of the waiter's own time.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

HEARTBEAT_S = 5.0
STALE_S = 60.0
POLL_S = 0.05


class Note(Protocol):
    """A small text file somewhere, local or in object storage."""

    def read(self) -> str | None:
        """The text, None where there is none."""
        ...

    def create(self, text: str) -> bool:
        """Write the text unless one is there; False if one is."""
        ...

    def replace(self, text: str) -> None: ...

    def remove(self) -> None: ...


class LocalNote:
    """A file whose creation is atomic on local file systems and NFS: whole or not at all, by one writer only."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def read(self) -> str | None:
        try:
            return self.file.read_text()
        except FileNotFoundError:
            return None

    def create(self, text: str) -> bool:
        with self._written(text) as part:
            try:
                os.link(part, self.file)
            except FileExistsError:
                return False
        return True

    def replace(self, text: str) -> None:
        with self._written(text) as part:
            part.replace(self.file)

    def remove(self) -> None:
        self.file.unlink(missing_ok=True)

    @contextmanager
    def _written(self, text: str) -> Iterator[Path]:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        part = self.file.with_name(f"{self.file.name}.{uuid.uuid4().hex}.part")
        part.write_text(text)
        try:
            yield part
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def lease(note: Note) -> Iterator[None]:
    """Wait until the lease is free or its holder is dead, hold it with a beating heart, give it back."""
    mine: dict[str, Any] = {"owner": uuid.uuid4().hex, "host": socket.gethostname(), "pid": os.getpid()}
    mine["start"] = started(os.getpid())
    watch = Watch(note)
    while not note.create(json.dumps(mine)):
        if watch.is_dead():
            watch.take_away()
        else:
            time.sleep(POLL_S)
    done = threading.Event()
    heart = threading.Thread(target=_beat, args=(note, mine, done), name="artifact-lease", daemon=True)
    heart.start()
    try:
        yield
    finally:
        done.set()
        heart.join()
        with suppress(OSError):  # one that cannot be reached gets stale
            if _owner(note) == mine["owner"]:
                note.remove()


def _beat(note: Note, mine: dict[str, Any], done: threading.Event) -> None:
    beat = 0
    while not done.wait(HEARTBEAT_S):
        with suppress(OSError):  # storage that stalls now may answer the next beat
            if _owner(note) != mine["owner"]:
                return
            beat += 1
            note.replace(json.dumps({**mine, "beat": beat}))


def _owner(note: Note) -> str | None:
    text = note.read()
    return json.loads(text)["owner"] if text else None


class Watch:
    """A waiter's view of somebody else's lease."""

    def __init__(self, note: Note) -> None:
        self.note = note
        self._seen: str | None = None
        self._since = time.monotonic()

    def is_dead(self) -> bool:
        """Whether the maker is gone: no such process on this host, or its heart stood still too long."""
        text = self.note.read()
        if text != self._seen:
            self._seen, self._since = text, time.monotonic()
        if text is None:
            return False
        holder = json.loads(text)
        if holder["host"] == socket.gethostname() and started(holder["pid"]) != holder["start"]:
            return True
        return time.monotonic() - self._since > STALE_S

    def take_away(self) -> None:
        """Remove the dead lease; whoever creates the next one first is the new maker."""
        if self._seen is not None and self.note.read() == self._seen:
            self.note.remove()


def this_process() -> str:
    """The host, number and beginning of this process, as a part of a file's name without dots."""
    return f"{_host()}-{os.getpid()}-{started(os.getpid())}"


def has_ended(process: str) -> bool:
    """Whether the process of such a name is known to be gone, which it is of this host's only."""
    host, pid, start = process.rsplit("-", 2)
    return host == _host() and started(int(pid)) != start


def _host() -> str:
    return socket.gethostname().replace(".", "_")


def started(pid: int) -> str | None:
    """When a process of this host began, equal only for the very same process; None if it is gone."""
    if not Path("/proc/self/stat").exists():
        return _answers(pid)
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else rest[18]


def _answers(pid: int) -> str | None:
    """Where there is no /proc: only whether some process has this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return "running"
    return "running"
