"""Searches in an object store: what is written here goes into a mirror there, and the mirror counts.

Every machine has a working copy of its own. Files are pushed whole, what commits them last; pulling makes files here
what they are there. A search in a local folder is its own mirror, and all of this does nothing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from pyarrow import fs

from raypo.artifacts import hash_of
from raypo.artifacts.mirror import ObjectNote, open_filesystem, replace_file
from raypo.artifacts.store import cache_home
from raypo.errors import RaypoError, StorageUnavailable
from raypo.search.folders import is_name, is_remote, parts

if TYPE_CHECKING:
    from raypo.search.lease import Held

AT_ONCE = 16
"""Files that are on their way side by side."""


class WorkingCopy:
    """The folder of a search on this machine, and the mirror of it where its storage is an object store.

    Slots have copies (`of="slots"`) apart from those of drivers and readers, which may pull at any moment.
    """

    def __init__(self, location: str | Path, of: str = "searches") -> None:
        self.location = str(location)
        self.storage, name = parts(self.location)
        self._files: fs.FileSystem | None = None
        self._in_turn = threading.Lock()
        self.path = Path(location)
        self.held: Held | None = None
        """The lease of a driver, which may write only while no other one has the search."""
        if is_remote(self.location):
            self.path = cache_home() / of / hash_of(self.storage) / name
            with self.reaching():
                self._files, self._base = open_filesystem(self.location)

    @property
    def mirrored(self) -> bool:
        """Whether there is a mirror."""
        return self._files is not None

    def others(self) -> WorkingCopy:
        """The copy in which a slot reads what others made."""
        return WorkingCopy(self.location) if self.mirrored else self

    def note(self, name: str) -> ObjectNote | None:
        """A small text in the mirror; None without one."""
        return ObjectNote(self._files, f"{self._base}/{name}") if self._files else None

    def neighbours(self) -> list[str]:
        """Names of the searches in the same storage."""
        if self._files is None:
            found_here = [found.parent.name for found in self.path.parent.glob("*/search.json")]
            return sorted(filter(is_name, found_here))
        with self.reaching():
            base = fs.FileSelector(self._base.rpartition("/")[0], allow_not_found=True)
            folders = [info.path for info in self._files.get_file_info(base) if info.type is fs.FileType.Directory]
            found = self._files.get_file_info([f"{folder}/search.json" for folder in folders]) if folders else []
        return sorted(filter(is_name, (Path(info.path).parent.name for info in found if info.is_file)))

    # There and back -------------------------------------------------------------------------------------------------

    def push(self, *paths: Path) -> None:
        """Copy files into the mirror, one after the other; one that is not here goes there too."""
        for path in paths if self._files else ():
            with self.reaching():
                self._may_write()
                if path.exists():
                    self._send(path)
                else:
                    self._remove(path)

    def push_folder(self, folder: Path, marker: str) -> None:
        """Copy a folder into the mirror, with the file that makes it whole last."""
        if self._files is None:
            return
        with self.reaching():
            self._may_write()
            self._remove(folder / marker)
            self._remove(folder)
            files = [path for path in folder.rglob("*") if path.is_file() and path != folder / marker]
            with ThreadPoolExecutor(AT_ONCE) as threads:
                list(threads.map(self._send, files))
            self._send(folder / marker)

    def pull(self, *paths: Path) -> None:
        """Make files here what they are in the mirror: new, replaced or gone."""
        if self._files is not None and paths:
            with self.reaching(), ThreadPoolExecutor(AT_ONCE) as threads:
                list(threads.map(self._fetch, paths))

    def pull_folder(self, folder: Path, marker: str) -> bool:
        """Make a folder here what it is in the mirror, whole or not at all; whether it is here."""
        if self._files is None:
            return (folder / marker).exists()
        with self.reaching():
            there = self._there(folder / marker)
            if not _same(folder / marker, there):
                shutil.rmtree(folder, ignore_errors=True)
                part = folder.with_name(f".part-{folder.name}-{uuid.uuid4().hex[:8]}")
                if there.is_file:
                    part.mkdir(parents=True)
                    fs.copy_files(self._at(folder), str(part), self._files, fs.LocalFileSystem())
                    _stamp(part / marker, there)
                    if not self._there(folder / marker).is_file:  # it went while it was read
                        shutil.rmtree(part)
                        return self.pull_folder(folder, marker)
                    os.replace(part, folder)
        return (folder / marker).exists()

    def drop(self, path: Path, marker: str | None = None) -> None:
        """Remove a file or folder, first of all the file that makes it whole."""
        self._may_write()
        if self._files is not None:
            with self.reaching():
                if marker is not None:
                    self._remove(path / marker)
                self._remove(path)
        if marker is not None:
            (path / marker).unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)

    def release(self, folder: Path) -> None:
        """Remove a folder here that is in the mirror."""
        if self.mirrored:
            shutil.rmtree(folder, ignore_errors=True)

    def files(self, folder: Path) -> list[str]:
        """All files below a folder of the mirror, relative to it, without those that are being written."""
        if self._files is None:
            return []
        base = self._at(folder)
        with self.reaching():
            found = self._files.get_file_info(fs.FileSelector(base, allow_not_found=True, recursive=True))
        whole = [info.path for info in found if info.is_file and not info.base_name.startswith(".")]
        return sorted(path[len(base) :].strip("/") for path in whole)

    # Journals -------------------------------------------------------------------------------------------------------

    def push_journal(self, path: Path) -> None:
        """Push the whole lines of a file that others append to meanwhile."""
        if self._files is not None and path.exists():
            with self.reaching(), self._in_turn:
                self._may_write()
                content = path.read_bytes()
                replace_file(self._files, self._at(path), content[: content.rfind(b"\n") + 1])

    def pull_journal(self, path: Path) -> None:
        """Take over the mirror's journal, unless the one here is the same and goes on from there."""
        if self._files is None or not self._there(path).is_file:
            return
        with self.reaching(), self._files.open_input_stream(self._at(path)) as stream:
            there = stream.read()
        if not path.exists() or not path.read_bytes().startswith(there):
            path.parent.mkdir(parents=True, exist_ok=True)
            part = _beside(path)
            part.write_bytes(there)
            os.replace(part, path)

    # One file -------------------------------------------------------------------------------------------------------

    def _may_write(self) -> None:
        if self.held is not None:
            self.held.make_sure()

    def _at(self, path: Path) -> str:
        return f"{self._base}/{path.relative_to(self.path).as_posix()}".removesuffix("/.")

    def _there(self, path: Path) -> fs.FileInfo:
        assert self._files is not None
        with self.reaching():
            return self._files.get_file_info(self._at(path))

    def _send(self, path: Path) -> None:
        assert self._files is not None
        replace_file(self._files, self._at(path), path)
        _stamp(path, self._there(path))

    def _fetch(self, path: Path) -> None:
        assert self._files is not None
        there = self._there(path)
        if not there.is_file:
            path.unlink(missing_ok=True)
        elif not _same(path, there):
            path.parent.mkdir(parents=True, exist_ok=True)
            part = _beside(path)
            fs.copy_files(there.path, str(part), self._files, fs.LocalFileSystem())
            _stamp(part, there)
            os.replace(part, path)

    def _remove(self, path: Path) -> None:
        assert self._files is not None
        there = self._there(path)
        if there.type is fs.FileType.Directory:
            self._files.delete_dir(there.path)
        elif there.is_file:
            self._files.delete_file(there.path)

    @contextlib.contextmanager
    def reaching(self) -> Iterator[None]:
        """What goes wrong on the way, whatever store it is, in one line."""
        try:
            yield
        except RaypoError:
            raise
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise StorageUnavailable(
                f"storage {self.storage}: cannot be used, got {reason}; check its address, the network and this "
                f"machine's rights, then raypo resume"
            ) from error


def _same(path: Path, there: fs.FileInfo) -> bool:
    """Whether a file is the one in the mirror; time stamps follow those there."""
    if there.mtime_ns is None or not there.is_file or not path.exists():
        return False
    here = path.stat()
    return (here.st_size, here.st_mtime_ns) == (there.size, there.mtime_ns)


def _stamp(path: Path, there: fs.FileInfo) -> None:
    if there.mtime_ns is not None:
        os.utime(path, ns=(there.mtime_ns, there.mtime_ns))


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
