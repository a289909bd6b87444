"""Where a search keeps what. Names cannot leave the storage folder."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from raypo.errors import StorageError
from raypo.study.study import NAME


def search_folder(storage: str | Path, name: str) -> Path:
    """The folder of a search.

    Raises:
        StorageError: the name could escape the storage folder.
    """
    if not NAME.match(name) or ".." in name:
        raise StorageError(f"{name!r} is no name of a search; a name has letters, digits, '_', '-' and '.'")
    return Path(storage).expanduser().resolve() / name


def trial_folder(search: Path, trial: str) -> Path:
    return search / "trials" / trial


def evaluation_file(search: Path, trial: str, until: float) -> Path:
    """The record of one evaluation; a job whose record is there is not run again."""
    return trial_folder(search, trial) / "evaluations" / f"{until:.6f}.json"


def origins_file(search: Path) -> Path:
    """Which model and data all trials come from, by content hash."""
    return search / "origins.json"


def write_json(path: Path, value: Any) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(value, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_json(path: Path) -> Any | None:
    """The content of a JSON file, or None when it is not there."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
