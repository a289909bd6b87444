"""The same store on object storage: folders copied through any pyarrow file system, the commit marker last."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import Any

from pyarrow import fs

MARKER = "artifact.json"
GCS_PATIENCE_S = 60
"""How long a request to Google Cloud Storage is tried again; a quarter of an hour by its own default."""
SETTLE_S = 0.2
"""Object stores have no exclusive create: two writers of a lease both write, wait this long and see who was last."""
PUT_WHOLE = ("s3", "gcs", "abfs")
"""File systems in which a file that is being written is not seen; in others it grows under its name."""


class ObjectNote:
    """A small text object."""

    def __init__(self, filesystem: fs.FileSystem, path: str) -> None:
        self.filesystem, self.path = filesystem, path

    def read(self) -> str | None:
        try:
            with self.filesystem.open_input_stream(self.path) as stream:
                return stream.read().decode() or None
        except FileNotFoundError:
            return None

    def create(self, text: str) -> bool:
        if self.read() is not None:
            return False
        self.replace(text)
        time.sleep(SETTLE_S)
        return self.read() == text

    def replace(self, text: str) -> None:
        replace_file(self.filesystem, self.path, text.encode())

    def remove(self) -> None:
        if self.filesystem.get_file_info(self.path).type is not fs.FileType.NotFound:
            self.filesystem.delete_file(self.path)


class Mirror:
    """Artifacts under base/kind/name of a pyarrow file system."""

    def __init__(self, filesystem: fs.FileSystem, base: str) -> None:
        self.filesystem, self.base = filesystem, base.rstrip("/")

    def lease(self, kind: str, name: str) -> ObjectNote:
        return ObjectNote(self.filesystem, f"{self.base}/{kind}/{name}.lease")

    def marker(self, kind: str, name: str) -> dict[str, Any] | None:
        """What was committed under this name, None where nothing was."""
        text = ObjectNote(self.filesystem, f"{self.base}/{kind}/{name}/{MARKER}").read()
        return json.loads(text) if text else None

    def download(self, kind: str, name: str, to: Path) -> None:
        fs.copy_files(f"{self.base}/{kind}/{name}", str(to), self.filesystem, fs.LocalFileSystem())

    def upload(self, kind: str, name: str, source: Path, marker: dict[str, Any]) -> None:
        """Copy a folder, then commit it; what an interrupted upload left is replaced."""
        self.remove(kind, name)
        target = f"{self.base}/{kind}/{name}"
        self.filesystem.create_dir(target, recursive=True)
        fs.copy_files(str(source), target, fs.LocalFileSystem(), self.filesystem)
        ObjectNote(self.filesystem, f"{target}/{MARKER}").replace(json.dumps(marker))

    def names(self) -> list[tuple[str, str]]:
        """(kind, name) of every folder, committed or not."""
        found = self.filesystem.get_file_info(fs.FileSelector(self.base, allow_not_found=True, recursive=True))
        parts = [info.path[len(self.base) :].strip("/").split("/") for info in found if info.is_file]
        return sorted({(part[0], part[1]) for part in parts if len(part) > 2})

    def remove(self, kind: str, name: str) -> None:
        """Delete a folder, its marker first so that nobody reads it while it goes."""
        ObjectNote(self.filesystem, f"{self.base}/{kind}/{name}/{MARKER}").remove()
        target = f"{self.base}/{kind}/{name}"
        if self.filesystem.get_file_info(target).type is not fs.FileType.NotFound:
            self.filesystem.delete_dir(target)


def replace_file(filesystem: fs.FileSystem, path: str, content: bytes | Path) -> None:
    """Write a file, from bytes or from a local file, so that others see what it was or what it is, never a part.

    Folders, which object stores do not need, are made where one is missing.
    """
    folder, _, name = path.rpartition("/")
    beside = path if filesystem.type_name in PUT_WHOLE else f"{folder}/.{name}.{uuid.uuid4().hex[:8]}"
    try:
        _write(filesystem, beside, content)
    except FileNotFoundError:
        filesystem.create_dir(folder, recursive=True)
        _write(filesystem, beside, content)
    if beside != path:
        filesystem.move(beside, path)


def _write(filesystem: fs.FileSystem, path: str, content: bytes | Path) -> None:
    if isinstance(content, Path):
        fs.copy_files(str(content), path, fs.LocalFileSystem(), filesystem)
        return
    with filesystem.open_output_stream(path) as stream:
        stream.write(content)


def open_filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """A pyarrow file system and the path in it, from a URI; schemes that pyarrow lacks are opened by fsspec."""
    if uri.startswith(("gs://", "gcs://")) and "retry_limit_seconds" not in uri:
        uri += f"{'&' if '?' in uri else '?'}retry_limit_seconds={GCS_PATIENCE_S}"
    if uri.split("://")[0] in ("s3", "gs", "gcs", "hdfs", "abfs", "abfss", "file"):
        return fs.FileSystem.from_uri(uri)
    import fsspec

    opened, path = fsspec.core.url_to_fs(uri)
    return fs.PyFileSystem(fs.FSSpecHandler(opened)), path
