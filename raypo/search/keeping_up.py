"""A driver's journal in an object store, which cannot append: pushed whole, every few seconds while it grows."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from raypo.errors import StorageError
from raypo.search.remote import WorkingCopy

PUSH_EVERY_S = 2.0


@contextlib.contextmanager
def kept_up(copy: WorkingCopy, journal: Path, files: Sequence[Path]) -> Iterator[None]:
    """Push a journal, and files that come and go, every few seconds while they change, and at the end.

    Raises:
        StorageError: the last push failed. Earlier ones are tried again.
    """
    if not copy.mirrored:
        yield
        return
    pushing = _Pushing(copy, journal, files)
    try:
        yield
    finally:
        pushing.end()


class _Pushing:
    """Pushes from a thread of its own."""

    def __init__(self, copy: WorkingCopy, journal: Path, files: Sequence[Path]) -> None:
        self._copy, self._journal, self._files = copy, journal, files
        self._seen: dict[Path, int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._over.set()
        self._thread.join()
        self._push()

    def _run(self) -> None:
        while not self._over.wait(PUSH_EVERY_S):
            with contextlib.suppress(StorageError):  # the next time, or the last, tries again
                self._push()

    def _push(self) -> None:
        for path in (self._journal, *self._files):
            now = _changed(path)
            if now != self._seen.get(path, 0):
                self._seen[path] = -1  # half done, should it fail
                self._copy.push_journal(path) if path == self._journal else self._copy.push(path)
                self._seen[path] = now if path == self._journal else _changed(path)


def _changed(path: Path) -> int:
    """When a file was written, 0 where there is none."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
