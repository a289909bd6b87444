"""Where a ledger's studies lie: a journal file beside the trials, or a database."""

from __future__ import annotations

import json
from pathlib import Path

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
        return JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StorageError(
            f"{path}: holds a line that cannot be read ({error}); raypo resume mends the end of a journal, and says "
            f"which line is damaged where that is not the last"
        ) from None


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
