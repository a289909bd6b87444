"""Mending a ledger's journal after a crash: a torn last line is cut off and kept aside, a forgotten lock is removed."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from optuna.storages.journal import JournalFileOpenLock

from raypo.errors import StorageError

_LOCK_SUFFIX = ".lock"
_LOCK_STALE_S = 5.0


def mend(path: Path) -> str | None:
    """Make a journal readable again; what was done, or None when nothing was wrong.

    Only the driver that holds the search's lease may call this.

    Raises:
        StorageError: a line before the last is damaged, so that what follows cannot be trusted.
    """
    if not path.exists():
        return None
    done = _unlock(path)
    lock = JournalFileOpenLock(str(path))
    lock.acquire()  # a command that is written meanwhile must not be cut off
    try:
        cut = _cut(path)
    finally:
        lock.release()
    return "; ".join(filter(None, (done, cut))) or None


def _cut(path: Path) -> str | None:
    content = path.read_bytes()
    good = _readable(path, content)
    if good == len(content):
        return None
    kept = path.with_name(f"{path.name}.damaged-{int(time.time())}")
    kept.write_bytes(content[good:])
    with path.open("r+b") as file:
        file.truncate(good)
    return f"{path.name}: its last line was torn off in a crash; {len(content) - good} bytes were moved to {kept.name}"


def _readable(path: Path, content: bytes) -> int:
    """Bytes from the start that are whole lines of JSON."""
    end = 0
    lines = content.split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):
        if not _is_entry(line):
            if any(_is_entry(later) for later in lines[number:-1]):
                raise StorageError(
                    f"{path}: line {number} is damaged and whole lines follow it; restore the file from a copy, or "
                    f"remove the line to go on with what can be read"
                )
            return end
        end += len(line) + 1
    return end


def _is_entry(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return False


def _unlock(path: Path) -> str | None:
    lock = path.with_name(path.name + _LOCK_SUFFIX)
    if (seen := _stat(lock)) is None:
        return None
    age = max(0.0, time.time() - seen.st_mtime)  # by clocks that may differ
    time.sleep(max(0.0, _LOCK_STALE_S - age))
    now = _stat(lock)
    if now is None or (now.st_ino, now.st_mtime_ns) != (seen.st_ino, seen.st_mtime_ns):
        return None  # whoever had it has let go of it, and who has it now is alive
    lock.unlink(missing_ok=True)
    return f"{path.name}: the lock of a process that died was removed"


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None
