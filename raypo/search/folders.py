"""Where a search keeps what. Names cannot leave the storage folder."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from raypo.artifacts import Store
from raypo.errors import StorageError
from raypo.study.study import NAME

LIVE = "live.json"
"""Where running trials are; a hint for those who look, no record."""
MODEL = "config.json"
"""The file that makes a model folder whole."""
CURSOR = "wandb.json"
"""What of the search has reached W&B."""
READ = ("metrics.jsonl", "completions.parquet", "benchmarks.json")
"""What drivers and readers look at in a trial's folder."""
_ARTIFACTS = "artifacts"


def is_remote(storage: str) -> bool:
    """Whether a storage is an object store's address, such as s3://bucket/prefix, rather than a folder."""
    return "://" in storage


def location_of(storage: str, name: str) -> str:
    """Where a search is: a folder, or an address in an object store.

    Raises:
        StorageError: the name could escape the storage, or is that of what the searches share.
    """
    if name == _ARTIFACTS:
        raise StorageError(f"{name!r} is no name of a search: {storage} keeps there what searches share; take another")
    if not is_name(name):
        raise StorageError(f"{name!r} is no name of a search; a name has letters, digits, '_', '-' and '.'")
    return _below(storage, name)


def is_name(name: str) -> bool:
    """Whether a search can be called so."""
    return bool(NAME.match(name)) and ".." not in name and name != _ARTIFACTS


def artifact_store(storage: str) -> Store:
    """What the searches of a storage share."""
    return Store(artifacts_location(storage))


def artifacts_location(storage: str) -> str:
    """Where a storage keeps what its searches share."""
    return _below(storage, _ARTIFACTS)


def parts(location: str) -> tuple[str, str]:
    """(storage, name) of a search's location."""
    path, mark, query = location.partition("?") if is_remote(location) else (location, "", "")
    storage, _, name = path.rpartition("/")
    return storage + mark + query, name


def _below(storage: str, name: str) -> str:
    if not is_remote(storage):
        folder = Path(storage).expanduser().resolve()
        if (file := in_the_way(folder)) is not None:
            raise StorageError(f"storage: {file} is a file; give a folder, or the address of one in an object store")
        return str(folder / name)
    if re.match(r"\w+://[^/@]*:[^/@]*@", storage):
        raise StorageError("storage: has a key in its address; give rights to the machines, and leave it out")
    path, mark, query = storage.partition("?")
    return f"{path.rstrip('/')}/{name}{mark}{query}"


def in_the_way(folder: Path) -> Path | None:
    """The file that stands where a folder is wanted, or on the way to it."""
    there = next((path for path in (folder, *folder.parents) if path.exists()), None)
    return None if there is None or there.is_dir() else there


def trial_folder(search: Path, trial: str) -> Path:
    return search / "trials" / trial


def evaluation_file(search: Path, trial: str, until: float) -> Path:
    """The record of one evaluation; a job whose record is there is not run again."""
    return trial_folder(search, trial) / "evaluations" / f"{until:.6f}.json"


def run_file(search: Path, trial: str) -> Path:
    """What a run without a search is made of."""
    return trial_folder(search, trial) / "run.json"


def origins_file(search: Path) -> Path:
    """Which model and data all trials come from, by content hash."""
    return search / "origins.json"


def contents_file(search: Path) -> Path:
    """What the sources that the study names held when its first trial was trained, by content hash."""
    return search / "contents.json"


def revision_file(search: Path, revision: int) -> Path:
    """The study that a running search came to, after the one that it began with."""
    return search / "revisions" / f"{revision}.json"


def usage_file(search: Path) -> Path:
    """What each slot used over time, a JSON line for each measurement."""
    return search / "slots.jsonl"


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
