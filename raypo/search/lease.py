"""One driver per search: a lease file that its holder keeps fresh. A stale one is taken over."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from raypo.artifacts.mirror import ObjectNote
from raypo.errors import StorageError
from raypo.search.remote import WorkingCopy

LEASE = "driver.lease"
REFRESH_S = 5.0
STALE_S = 60.0


@contextlib.contextmanager
def lease(copy: WorkingCopy, search: str) -> Iterator[None]:
    """Hold the search's lease for the duration, on this machine and in the mirror.

    Raises:
        StorageError: another driver holds it and is alive.
    """
    path, note = copy.path / LEASE, copy.note(LEASE)
    _take(path, search)
    stop = threading.Event()
    keeper = threading.Thread(target=_keep, args=(path, note, stop), name="lease", daemon=True)
    try:
        if note is not None:
            _take_note(note, search)
        keeper.start()
        yield
    finally:
        stop.set()
        if keeper.is_alive():
            keeper.join()
            _give_back(note)
        path.unlink(missing_ok=True)


def holder(copy: WorkingCopy) -> str | None:
    """`host, process N` of the driver that runs this search now, or None."""
    return holder_here(copy.path) or _holder_there(copy.note(LEASE))


def holder_here(folder: Path) -> str | None:
    """The driver that runs a search in this very folder."""
    path = folder / LEASE
    try:
        owner = json.loads(path.read_text())
        age = time.time() - path.stat().st_mtime
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return None if _dead(owner, age) else _words(owner)


def _holder_there(note: ObjectNote | None) -> str | None:
    try:
        owner = json.loads((note and note.read()) or "null")
    except json.JSONDecodeError:
        return None
    return None if owner is None or _dead(owner, time.time() - owner["beat"]) else _words(owner)


def _take(path: Path, search: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = path.with_name(f".lease-{os.getpid()}-{threading.get_ident()}")
    mine.write_text(json.dumps(_myself()))
    try:
        for _ in range(2):
            with contextlib.suppress(FileExistsError):
                os.link(mine, path)  # fails when the lease exists: atomic on shared file systems too
                return
            if (owner := holder_here(path.parent)) is not None:
                raise _taken(search, owner)
            path.unlink(missing_ok=True)
        raise StorageError(f"{search}: another driver took the search over at this very moment; try again")
    finally:
        mine.unlink(missing_ok=True)


def _dead(owner: dict[str, Any], age_s: float) -> bool:
    if owner.get("host") != socket.gethostname():
        return age_s > STALE_S
    try:
        return abs(psutil.Process(int(str(owner["pid"]))).create_time() - float(str(owner["started"]))) > 1
    except psutil.NoSuchProcess:
        return True


def _keep(path: Path, note: ObjectNote | None, stop: threading.Event) -> None:
    while not stop.wait(REFRESH_S):
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)
        if note is not None:
            with contextlib.suppress(OSError):  # the next beat tries again
                note.replace(json.dumps(_myself()))


def _take_note(note: ObjectNote, search: str) -> None:
    if (owner := _holder_there(note)) is not None:
        raise _taken(search, owner)
    note.remove()
    if not note.create(json.dumps(_myself())):
        raise StorageError(f"{search}: another driver took the search over at this very moment; try again")


def _give_back(note: ObjectNote | None) -> None:
    if note is not None and _holder_there(note) == _words(_myself()):
        note.remove()


def _myself() -> dict[str, Any]:
    started = psutil.Process().create_time()
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": started, "beat": time.time()}


def _words(owner: dict[str, Any]) -> str:
    return f"{owner['host']}, process {owner['pid']}"


def _taken(search: str, owner: str) -> StorageError:
    return StorageError(
        f"{search}: a driver runs it already ({owner}); raypo status {search} follows it, raypo stop {search} ends it"
    )
