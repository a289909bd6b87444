"""What judges write down: files shared by all processes of a search, and marks by the content of what was asked."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raypo.artifacts import hash_of

MARK = np.dtype([("key", "S16"), ("value", "<f8"), ("seal", "<u8")])
"""A mark on disk: 32 bytes."""
SEAL = 0x7261_7970_6F6D_726B
"""The exclusive or of a mark's four words; a torn or empty one has another."""


def content_key(identity: Mapping[str, Any], item: Any) -> str:
    """Hash of a judge's identity and of the texts it is asked about, in their order."""
    return hash_of({"judge": identity, "item": item})


class SharedFiles:
    """A folder of files, one for each process that writes.

    Nobody waits for a lock, a killed process loses at most the last piece it wrote, and every process reads what others
    wrote.
    """

    def __init__(self, folder: Path, ending: str) -> None:
        self.folder, self._ending = Path(folder), ending
        self._read: dict[Path, int] = {}
        self._own: Path | None = None

    def unread(self, piece: int | bytes) -> Iterator[bytes]:
        """What of each file was not read before, in whole pieces of so many bytes or up to such an end."""
        for path in sorted(self.folder.glob(f"*{self._ending}")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                new = file.read()
            whole = new.rfind(piece) + len(piece) if isinstance(piece, bytes) else len(new) // piece * piece
            self._read[path] = self._read.get(path, 0) + whole
            yield new[:whole]

    def append(self, piece: bytes) -> None:
        """Write one piece; after one that found no room the next begins another file."""
        if self._own is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._own = self.folder / f"{os.getpid()}-{uuid.uuid4().hex[:8]}{self._ending}"
        try:
            with self._own.open("ab") as file:
                file.write(piece)
        except OSError:
            self._own = None
            raise


class SharedLines:
    """A folder of JSON lines files, one for each process that writes."""

    def __init__(self, folder: Path) -> None:
        self._files = SharedFiles(folder, ".jsonl")

    def new(self) -> Iterator[Any]:
        """Lines of all processes that were not read before, this one's own included."""
        for lines in self._files.unread(b"\n"):
            for line in lines.splitlines():
                with contextlib.suppress(ValueError):  # torn, where a disk was full
                    yield json.loads(line)

    def append(self, line: Any) -> None:
        """Write one line."""
        self._files.append(json.dumps(line).encode() + b"\n")


class MarkCache:
    """Marks of all judges that share a folder; safe for many processes at once.

    They are two arrays [N] in the order of the keys, 24 bytes a mark: a storage comes to hold millions of them, and
    every slot reads them all.
    """

    def __init__(self, folder: Path) -> None:
        self._files = SharedFiles(folder, ".marks")
        self._keys: NDArray[np.bytes_] = np.empty(0, MARK["key"])
        self._values: NDArray[np.float64] = np.empty(0)

    def look_up(self, keys: Iterable[str]) -> dict[str, float]:
        """The marks that are known of these keys, hashes by `content_key`; those of other processes included."""
        self._read_on()
        asked = list(keys)
        if not asked or not len(self._keys):
            return {}
        wanted = np.array([bytes.fromhex(key) for key in asked], MARK["key"])
        at = np.searchsorted(self._keys, wanted).clip(max=len(self._keys) - 1)
        return {asked[i]: float(self._values[at[i]]) for i in np.flatnonzero(self._keys[at] == wanted)}

    def put(self, key: str, mark: float) -> None:
        """Remember a mark."""
        written = np.zeros(1, MARK)
        written["key"], written["value"] = bytes.fromhex(key), mark
        written["seal"] = SEAL ^ _folded(written)
        self._files.append(written.tobytes())

    def _read_on(self) -> None:
        marks = np.frombuffer(b"".join(self._files.unread(MARK.itemsize)), MARK)
        marks = marks[_folded(marks) == SEAL]
        if not len(marks):
            return
        order = np.argsort(marks["key"], kind="stable")
        keys, values = marks["key"][order], marks["value"][order]
        at = np.searchsorted(self._keys, keys)
        self._keys, self._values = np.insert(self._keys, at, keys), np.insert(self._values, at, values)


def _folded(marks: NDArray[np.void]) -> NDArray[np.uint64]:
    """The exclusive or of the words of each mark [N]."""
    return np.asarray(np.bitwise_xor.reduce(marks.view("<u8").reshape(-1, 4), axis=1))
