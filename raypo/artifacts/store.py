"""A store of folders under content hashes: made once, found again by every trial, search and machine.

An artifact is used only after its commit: locally a rename of the finished folder, in object storage a marker that is
written last. What a crash left behind is never read, and goes when the artifact is made again on the same machine or
the store is pruned.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import fs

from raypo.artifacts.hashing import canonical, hash_of
from raypo.artifacts.lease import LocalNote, Watch, has_ended, lease, this_process
from raypo.artifacts.mirror import MARKER, Mirror, open_filesystem
from raypo.errors import StorageError, StorageUnavailable

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
"""What a disk of this machine has against being written to."""


@dataclass(frozen=True)
class Artifact:
    """A committed artifact; times are seconds since the epoch, `used` is its last use through this store's folder."""

    kind: str
    name: str
    key: dict[str, Any]
    bytes: int
    created: float
    used: float


class Store:
    """Artifacts at a local path, or at a URI (or path of a pyarrow file system) with a local cache in front.

    `cache` is where artifacts of a remote store are kept on this machine; a folder of `cache_home` by default.
    """

    def __init__(
        self, location: str | Path, *, filesystem: fs.FileSystem | None = None, cache: str | Path | None = None
    ) -> None:
        self.mirror: Mirror | None = None
        if filesystem is None and "://" in str(location):
            filesystem, path = open_filesystem(str(location))
            self.mirror = Mirror(filesystem, path)
        elif filesystem is not None:
            self.mirror = Mirror(filesystem, str(location))
        self.root = Path(cache or cache_home() / hash_of(str(location))) if self.mirror else Path(location).absolute()

    @property
    def hashes(self) -> Path:
        """Folder for `hash_folder`'s memory of file hashes."""
        return self.root / ".hashes"

    def get_or_make(self, kind: str, key: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
        """The folder of the artifact under `key`; `make` fills an empty folder if there is none yet.

        `key` must name everything the artifact depends on and nothing else. Processes that want the same artifact at
        once wait for the first; if that one dies, the next makes it.
        """
        if not re.fullmatch(r"[a-z0-9_.-]+", kind) or kind.startswith("."):
            raise StorageError(f"artifact kind: must be a plain lower-case name, got {kind!r}")
        name = hash_of(key)
        folder = self.root / kind / name
        try:
            if not self._is_whole(folder):
                with lease(LocalNote(self.root / kind / f"{name}.lease")):
                    if not self._is_whole(folder):
                        self._bring(kind, name, key, make)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            raise StorageUnavailable(
                f"{folder}: the artifact cannot be written, {error}; free space or store elsewhere"
            ) from error
        with suppress(PermissionError):  # a store may be shared read-only; then it keeps no record of use
            os.utime(folder / MARKER)
        return folder

    def list(self) -> tuple[Artifact, ...]:
        """Every committed artifact, by kind and name; of the remote store where there is one."""
        if self.mirror:
            found = [(kind, name, self.mirror.marker(kind, name)) for kind, name in self.mirror.names()]
        else:
            found = [(f.parent.name, f.name, _marker(f)) for f in sorted(self.root.glob("[!.]*/[!.]*")) if f.is_dir()]
        return tuple(self._artifact(kind, name, marker) for kind, name, marker in found if marker)

    def prune(self, *, unused_s: float | None = None, kind: str | None = None) -> tuple[Artifact, ...]:
        """Remove artifacts not used for `unused_s` seconds (None: only what crashes left); returns the removed ones."""
        self._sweep()
        gone = []
        for artifact in self.list() if unused_s is not None else []:
            if (kind is None or artifact.kind == kind) and time.time() - artifact.used >= (unused_s or 0):
                gone.append(artifact)
                _remove(self.root / artifact.kind / artifact.name)
                if self.mirror:
                    self.mirror.remove(artifact.kind, artifact.name)
        return tuple(gone)

    def _bring(self, kind: str, name: str, key: Mapping[str, Any], make: Callable[[Path], None]) -> None:
        """Fetch the artifact from the mirror or make it, then commit it here; called by the lease's holder only."""
        folder = self.root / kind / name
        for leftover in [*filter(_is_left, folder.parent.glob(f".{name}.*")), folder]:
            _remove(leftover)
        part = folder.with_name(f".{name}.{this_process()}.{uuid.uuid4().hex}")
        part.mkdir(parents=True)
        try:
            with ExitStack() as stack:
                marker = self._fetch(kind, name, part, stack)
                if marker is None:
                    make(part)
                    marker = _describe(part, key)
                    self._publish(kind, name, part, marker)
            (part / MARKER).write_text(json.dumps(marker))
            part.rename(folder)
        except OSError:
            if not self._is_whole(folder):  # else somebody took the lease over and was faster
                raise
        finally:
            _remove(part)

    def _fetch(self, kind: str, name: str, part: Path, stack: ExitStack) -> dict[str, Any] | None:
        """Bring what the mirror has into an empty folder; None where it has to be made, whose lease `stack` then holds.

        It may lack files that its marker names: two makers, one of whom was too slow for its lease, put it there.
        """
        if self.mirror is None:
            return None
        with self._reaching():
            stack.enter_context(lease(self.mirror.lease(kind, name)))
            marker = self.mirror.marker(kind, name)
            if marker is None:
                return None
            self.mirror.download(kind, name, part)
        if _has_all(part, marker):
            return marker
        shutil.rmtree(part)
        part.mkdir()
        return None

    def _publish(self, kind: str, name: str, part: Path, marker: dict[str, Any]) -> None:
        if self.mirror is not None:
            with self._reaching():
                self.mirror.upload(kind, name, part, marker)

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """What goes wrong on the way to the mirror is no fault of what is made.

        Raises:
            StorageUnavailable: the mirror cannot be used.
        """
        try:
            yield
        except Exception as error:
            if isinstance(error, OSError) and error.errno in NO_ROOM:
                raise
            reason = (str(error) or type(error).__name__).splitlines()[0]
            where = self.mirror.base if self.mirror else self.root
            raise StorageUnavailable(
                f"artifacts in {where}: cannot be used, got {reason}; check the storage's address, the network and "
                "this machine's rights, then raypo resume"
            ) from error

    def _is_whole(self, folder: Path) -> bool:
        """Whether the artifact is committed and its files have the sizes they had then."""
        marker = _marker(folder)
        return marker is not None and _has_all(folder, marker)

    def _artifact(self, kind: str, name: str, marker: dict[str, Any]) -> Artifact:
        here = self.root / kind / name / MARKER
        used = here.stat().st_mtime if here.exists() else marker["created"]
        return Artifact(kind, name, marker["key"], sum(marker["files"].values()), marker["created"], used)

    def _sweep(self) -> None:
        """Remove half-made folders that nobody is making any more."""
        for part in self.root.glob("[!.]*/.*"):
            name = part.name.split(".")[1]
            watch = Watch(LocalNote(part.parent / f"{name}.lease"))
            if watch.is_dead():
                watch.take_away()
            if watch.note.read() is None:
                _remove(part)
        for kind, name in self.mirror.names() if self.mirror else []:
            if self.mirror and self.mirror.marker(kind, name) is None and self.mirror.lease(kind, name).read() is None:
                self.mirror.remove(kind, name)


def cache_home() -> Path:
    """Where this machine keeps copies of what is in object stores: RAYPO_CACHE, ~/.cache/raypo by default."""
    return Path(os.environ.get("RAYPO_CACHE") or Path.home() / ".cache" / "raypo").expanduser()


def _describe(folder: Path, key: Mapping[str, Any]) -> dict[str, Any]:
    files = {f.relative_to(folder).as_posix(): f.stat().st_size for f in sorted(folder.rglob("*")) if f.is_file()}
    return {"key": canonical(key), "created": time.time(), "files": files}


def _has_all(folder: Path, marker: Mapping[str, Any]) -> bool:
    """Whether a folder has the files that a marker names, in the sizes they had."""
    files: Mapping[str, int] = marker["files"]
    return all((folder / f).is_file() and (folder / f).stat().st_size == size for f, size in files.items())


def _is_left(part: Path) -> bool:
    """Whether nobody works in a half-made folder: whose lease was taken, because its heart stood still, may do so."""
    words = part.name.split(".")
    return len(words) < 4 or has_ended(words[2])


def _marker(folder: Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / MARKER).read_text())
    except FileNotFoundError:
        return None


def _remove(folder: Path) -> None:
    """Delete a folder whole: first out of sight, so that nobody finds half of it."""
    if not folder.exists():
        return
    hidden = folder if folder.name.startswith(".") else folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    if hidden != folder:
        folder.rename(hidden)
    shutil.rmtree(hidden)
