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

import psutil

from raypo.errors import StorageError

REFRESH_S = 5.0
STALE_S = 60.0


@contextlib.contextmanager
def lease(folder: Path, search: str) -> Iterator[None]:
    """Hold the search's lease for the duration.

    Raises:
        StorageError: another driver holds it and is alive.
    """
    path = folder / "driver.lease"
    _take(path, search)
    stop = threading.Event()
    keeper = threading.Thread(target=_keep, args=(path, stop), name="lease", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        stop.set()
        keeper.join()
        path.unlink(missing_ok=True)


def holder(folder: Path) -> str | None:
    """`host, process N` of the driver that runs this search now, or None."""
    path = folder / "driver.lease"
    try:
        owner = json.loads(path.read_text())
        age = time.time() - path.stat().st_mtime
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return None if _dead(owner, age) else f"{owner['host']}, process {owner['pid']}"


def _take(path: Path, search: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = path.with_name(f".lease-{os.getpid()}-{threading.get_ident()}")
    started = psutil.Process().create_time()
    mine.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "started": started}))
    try:
        for _ in range(2):
            with contextlib.suppress(FileExistsError):
                os.link(mine, path)  # fails when the lease exists: atomic on shared file systems too
                return
            if (owner := holder(path.parent)) is not None:
                raise StorageError(
                    f"{search}: a driver runs it already ({owner}); raypo status {search} follows it, "
                    f"raypo stop {search} ends it"
                )
            path.unlink(missing_ok=True)
        raise StorageError(f"{search}: another driver took the search over at this very moment; try again")
    finally:
        mine.unlink(missing_ok=True)


def _dead(owner: dict[str, object], age_s: float) -> bool:
    if owner.get("host") != socket.gethostname():
        return age_s > STALE_S
    try:
        return abs(psutil.Process(int(str(owner["pid"]))).create_time() - float(str(owner["started"]))) > 1
    except psutil.NoSuchProcess:
        return True


def _keep(path: Path, stop: threading.Event) -> None:
    while not stop.wait(REFRESH_S):
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)
