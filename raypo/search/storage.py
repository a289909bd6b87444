"""Where a ledger's studies lie: a journal file beside the trials, or a database."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from raypo.errors import StorageError


def open_storage(where: str | Path) -> BaseStorage:
    """A database by its URL, else a journal file.

    Raises:
        StorageError: the journal holds a line that cannot be read, or the database does not answer.
    """
    if isinstance(where, str) and "://" in where:
        return _database(where)
    path = str(where)
    try:
        return JournalStorage(WholeLines(path, lock_obj=JournalFileOpenLock(path)))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StorageError(
            f"{path}: holds a line that cannot be read ({error}); raypo resume mends the end of a journal, and says "
            f"which line is damaged where that is not the last"
        ) from None
    except (KeyError, TypeError, ValueError) as error:  # a whole line of JSON that is no whole entry
        raise StorageError(f"{path}: holds a damaged entry ({error!r}); restore the file from a copy") from None


class WholeLines(JournalFileBackend):
    """A journal file whose entries are written whole or not at all, be the disk full or another writer dead.

    Optuna's own leaves a part of a line there, and what is written behind that damages all that follows.
    """

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        entries = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        with self._alone(), _open(self._file_path) as file:
            size = os.fstat(file).st_size
            if (end := _end_of_lines(file, size)) < size:
                os.ftruncate(file, end)  # a torn line was never told to anybody as written
            try:
                _write(file, entries)
            except OSError:  # else what is whole stays, for readers remember where it ends, and the next writer mends
                os.ftruncate(file, end)
                raise

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        self._lock.acquire()
        try:
            yield
        finally:
            self._lock.release()


@contextlib.contextmanager
def _open(path: str) -> Iterator[int]:
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        yield file
    finally:
        os.close(file)


def _end_of_lines(file: int, end: int) -> int:
    """Where the last whole line of so many bytes ends."""
    while end and os.pread(file, 1, end - 1) != b"\n":
        end -= 1
    return end


def _write(file: int, content: bytes) -> None:
    while content:
        content = content[os.write(file, content) :]
    os.fsync(file)


def _database(url: str) -> BaseStorage:
    """A database that answers, with ended trials remembered here.

    Raises:
        StorageError: it does not answer, or the package that speaks to it is missing.
    """
    from sqlalchemy.exc import SQLAlchemyError

    from raypo.search.patience import first_line, patient

    try:
        spoken = url.replace("postgresql://", "postgresql+psycopg://", 1)
        return patient(get_storage(RDBStorage(spoken, engine_kwargs={"pool_pre_ping": True})), url)
    except ImportError as error:
        raise StorageError(f"ledger: {url} needs a package, {error}; pip install 'raypo[postgres]'") from None
    except SQLAlchemyError as error:
        raise StorageError(f"ledger: {url} does not answer, {first_line(error)}") from None
