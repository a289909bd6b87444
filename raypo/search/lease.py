"""One driver per search: a lease file that its holder keeps fresh. A stale one is taken over."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from raypo.artifacts.lease import LocalNote, Note
from raypo.artifacts.lease import started as ticks_of
from raypo.artifacts.mirror import ObjectNote
from raypo.errors import StorageError, StorageUnavailable
from raypo.search.remote import WorkingCopy

LEASE = "driver.lease"
REFRESH_S = 5.0
STALE_S = 60.0
SURE_S = STALE_S / 2
"""How long a lease that was seen to be ours cannot have been taken over; it leaves time for clocks that differ."""
_PROC = Path("/proc/self/stat")


class Held:
    """A driver's lease, on this machine and in the mirror, which notices when another driver has taken the search over.

    That happens after the machine was suspended, or its network gone, for longer than STALE_S.
    """

    def __init__(self, copy: WorkingCopy, search: str) -> None:
        self._copy = copy
        self._search, self._mine = search, {**_myself(), "owner": uuid.uuid4().hex}
        self._here, self._there = LocalNote(copy.path / LEASE), copy.note(LEASE)
        self._seen = time.time()
        """When the lease was last seen to be ours, by the clock that goes on while the machine sleeps."""
        self._other: str | None = None
        self._in_turn = threading.Lock()

    def take(self) -> None:
        """Write the lease, in the place of one whose driver is dead.

        Raises:
            StorageError: another driver holds it and is alive, or was faster; the storage cannot be written.
        """
        try:
            _take(self._here, json.dumps(self._mine), self._search)
        except OSError as error:
            raise StorageUnavailable(
                f"storage {self._copy.path.parent}: cannot be written, got {error.strerror}; mend that, or name "
                f"another place: --storage"
            ) from error
        if self._there is not None:
            with self._copy.reaching():
                _take_note(self._there, json.dumps(self._mine), self._search)
        self._seen = time.time()

    def look(self) -> None:
        """Refresh the lease while it is ours; where it cannot be reached, the next look tells."""
        with self._in_turn, contextlib.suppress(Exception):
            now = time.time()
            for note in (self._here, self._there):
                if note is not None and self._other is None and not self._owns(note):
                    self._other = _words(json.loads(note.read() or "null"))
            if self._other is not None:
                return
            os.utime(self._here.file)
            if self._there is not None:
                self._there.replace(json.dumps({**self._mine, "beat": now}))
            self._seen = now

    def check(self) -> None:
        """Raise where the lease is lost, looking anew where the last look was long ago.

        Raises:
            StorageError: another driver has the search.
        """
        if self._other is None and time.time() - self._seen > SURE_S:
            self.look()
        if self._other is not None:
            raise StorageError(
                f"{self._search}: another driver ({self._other}) has it since this machine or its network was away for "
                f"more than {STALE_S:g} s, so this one stops and writes no more; raypo status {self._search} follows "
                f"the search, raypo resume {self._search} goes on with it once nobody runs it"
            )

    @property
    def lost(self) -> bool:
        """Whether another driver has the search."""
        try:
            self.check()
        except StorageError:
            return True
        return False

    def make_sure(self) -> None:
        """Raise unless the lease was seen lately: nobody can have taken it since.

        Raises:
            StorageError: another driver has the search, or that cannot be found out now.
        """
        self.check()
        if time.time() - self._seen > SURE_S:
            raise StorageError(f"{self._search}: its lease cannot be reached, so nothing is written; check the network")

    def give_back(self) -> None:
        """Remove the lease where it is ours; one that cannot be reached gets stale."""
        for note in (self._here, self._there):
            with contextlib.suppress(OSError, json.JSONDecodeError):
                if note is not None and self._owns(note):
                    note.remove()

    def _owns(self, note: Note) -> bool:
        owner = json.loads(note.read() or "null")
        return owner is not None and owner.get("owner") == self._mine["owner"]


@contextlib.contextmanager
def lease(copy: WorkingCopy, search: str) -> Iterator[Held]:
    """Hold the search's lease for the duration, on this machine and in the mirror.

    Raises:
        StorageError: another driver holds it and is alive, or has taken it over meanwhile.
    """
    held = Held(copy, search)
    stop = threading.Event()
    keeper = threading.Thread(target=_keep, args=(held, stop), name="lease", daemon=True)
    try:
        held.take()
        copy.held = held
        keeper.start()
        yield held
        held.check()
    finally:
        stop.set()
        if keeper.is_alive():
            keeper.join()
        if copy.held is held and not held.lost:
            copy.held = None  # one that was lost stays, so that nothing is written afterwards either
        held.give_back()


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


def _take(note: LocalNote, mine: str, search: str) -> None:
    for _ in range(2):
        if note.create(mine):
            return
        seen = note.read()
        if (owner := holder_here(note.file.parent)) is not None:
            raise _taken(search, owner)
        _take_away(note.file, seen)
    raise _faster(search)


def _take_away(path: Path, dead: str | None) -> None:
    """Remove a dead lease, and not the one that somebody who was faster has put in its place."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with contextlib.suppress(FileNotFoundError):
        path.rename(aside)  # one process alone gets a file
        if aside.read_text() != dead:
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink()


def _dead(owner: dict[str, Any], age_s: float) -> bool:
    if owner.get("host") != socket.gethostname():
        return age_s > STALE_S
    if _PROC.exists() and "ticks" in owner:
        return ticks_of(int(str(owner["pid"]))) != owner["ticks"]
    try:
        process = psutil.Process(int(str(owner["pid"])))
        # A zombie stays as long as its parent does not ask for it, as in a container whose first process never does.
        ended = process.status() == psutil.STATUS_ZOMBIE
        return ended or abs(process.create_time() - float(str(owner["started"]))) > 1
    except psutil.NoSuchProcess:
        return True


def _keep(held: Held, stop: threading.Event) -> None:
    while not stop.wait(REFRESH_S):
        held.look()


def _take_note(note: ObjectNote, mine: str, search: str) -> None:
    seen = note.read()
    if (owner := _holder_there(note)) is not None:
        raise _taken(search, owner)
    if seen is not None and note.read() == seen:
        note.remove()
    if not note.create(mine):
        raise _faster(search)


def _myself() -> dict[str, Any]:
    # On Linux the time at which a process began changes with a clock that is set, and its ticks since the boot do not.
    began = {"started": psutil.Process().create_time(), "ticks": ticks_of(os.getpid())}
    return {"host": socket.gethostname(), "pid": os.getpid(), **began, "beat": time.time()}


def _words(owner: dict[str, Any] | None) -> str:
    if owner is None:
        return "ended since"
    return f"{owner['host']}, process {owner['pid']}"


def _taken(search: str, owner: str) -> StorageError:
    return StorageError(
        f"{search}: a driver runs it already ({owner}); raypo status {search} follows it, raypo stop {search} ends it"
    )


def _faster(search: str) -> StorageError:
    return StorageError(f"{search}: another driver took the search over at this very moment; try again")
