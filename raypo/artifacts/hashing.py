"""Content hashes: equal content, equal hash, on every machine and in every process."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from raypo.artifacts.mirror import MARKER
from raypo.errors import StorageError

DIGITS = 32
"""Hex digits kept of SHA-256: 128 bits."""

RACY_S = 2.0
"""A file changed less than this long before it was hashed may change again under the same time stamp."""


def hash_of(obj: Any) -> str:
    """Hash of plain data: mappings, sequences, strings, numbers, None, paths and dataclasses of these.

    Order of keys does not matter; 1 and 1.0 and True differ. Raises TypeError for anything that has no content of its
    own (functions, open files), because its hash would mean nothing in the next process.
    """
    text = json.dumps(canonical(obj), sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:DIGITS]


def canonical(obj: Any) -> Any:
    """Plain data as json writes it the same way every time."""
    if obj is None or isinstance(obj, (str, bool, int)):
        return obj
    if isinstance(obj, float):
        return obj if math.isfinite(obj) else {"float": str(obj)}
    if isinstance(obj, Mapping):
        if not all(isinstance(key, str) for key in obj):
            raise TypeError(f"hash_of: keys must be strings, got {sorted(map(repr, obj))}")
        return {key: canonical(value) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [canonical(item) for item in obj]
    if isinstance(obj, (set, frozenset)):
        return {"set": sorted(hash_of(item) for item in obj)}
    if isinstance(obj, os.PathLike):
        return os.fspath(obj)
    if is_dataclass(obj) and not isinstance(obj, type):
        return {"is": type(obj).__name__} | {f.name: canonical(getattr(obj, f.name)) for f in fields(obj)}
    raise TypeError(f"hash_of: {type(obj).__name__} has no content hash, got {obj!r}; give plain data")


def hash_folder(path: str | Path, cache: Path | None = None) -> str:
    """Hash of the contents of a folder (or of one file): relative names and bytes.

    Hidden entries are left out, and the marker of an artifact, which says when it was made.

    `cache` is a folder where file hashes are remembered under size and modification time, so that the weights of a
    large model are read once. Names, times and the folder's own place do not enter the hash.
    """
    root = Path(path)
    if not root.exists():
        raise StorageError(f"{root}: nothing here to hash")
    note = cache / f"{hash_of(str(root.resolve()))}.json" if cache else None
    known = json.loads(note.read_text()) if note and note.exists() else {}
    seen: dict[str, list[Any]] = {}
    for name, file in _files(root):
        stat = file.stat()
        stamp = [stat.st_size, stat.st_mtime_ns]
        old = known.get(name)
        seen[name] = old if old and old[:2] == stamp else [*stamp, _hash_file(file)]
    if note and seen != known:
        _remember(note, {name: entry for name, entry in seen.items() if time.time() - entry[1] / 1e9 > RACY_S})
    return hash_of({name: digest for name, (_, _, digest) in seen.items()})


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    if root.is_file():
        yield "", root
        return
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in sorted(n for n in names if not n.startswith(".") and n != MARKER):
            file = Path(folder, name)
            yield file.relative_to(root).as_posix(), file


def _hash_file(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:DIGITS]


def _remember(note: Path, entries: Mapping[str, Any]) -> None:
    note.parent.mkdir(parents=True, exist_ok=True)
    part = note.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(entries))
    part.replace(note)
