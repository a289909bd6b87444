"""Checkpoints of a trial: one exists when its marker does; half-written ones are cleaned away."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from raypo.errors import StorageUnavailable
from raypo.search.remote import WorkingCopy
from raypo.search.together import broadcast, rank
from raypo.training.writing import write_alone, write_together

MARKER = "COMMITTED"
_NAME = re.compile(r"^step-(\d{8})$")


def newest(folder: Path, at_most: int | None = None) -> Path | None:
    """The last committed checkpoint of a trial (not beyond a step); rank 0 looks, all ranks learn."""
    found = None
    if rank() == 0:
        steps = [(step_of(path), path) for path in folder.glob("step-*") if is_committed(path)]
        able = [path for step, path in sorted(steps) if at_most is None or step <= at_most]
        found = str(able[-1]) if able else None
    found = broadcast(found)
    return Path(found) if found else None


def is_committed(path: Path) -> bool:
    """Whether a checkpoint is there and whole: what a machine had not yet put on its disk goes when its power does."""
    if _NAME.match(path.name) is None:
        return False
    try:
        told = (path / MARKER).read_text(encoding="utf-8")
        sizes = json.loads(told) if told else {}  # an earlier raypo told nothing
        return all((path / file).stat().st_size == size for file, size in sizes.items())
    except (FileNotFoundError, json.JSONDecodeError):
        return False


def step_of(path: Path) -> int:
    match = _NAME.match(path.name)
    return int(match.group(1)) if match else -1


def write(folder: Path, step: int, save: Callable[[Path], None]) -> Path:
    """Write a checkpoint on all ranks, commit it, and remove the ones before it.

    Raises:
        StorageUnavailable: the disk is full; what was written of this checkpoint is removed and earlier ones stay.
    """
    path = folder / f"step-{step:08d}"
    part = folder / f".part-{step:08d}"
    what = f"{path}: the checkpoint"
    try:
        write_alone(lambda: _make_room(part), what)
        write_together(lambda: save(part), what)
        write_alone(lambda: _commit(part, path), what)
    except StorageUnavailable:
        if rank() == 0:
            shutil.rmtree(part, ignore_errors=True)
        raise
    return path


def _make_room(part: Path) -> None:
    for leftover in part.parent.glob(".part-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    part.mkdir(parents=True, exist_ok=True)


def _commit(part: Path, path: Path) -> None:
    _mark(part)
    shutil.rmtree(path, ignore_errors=True)
    os.replace(part, path)
    for other in path.parent.glob("step-*"):
        if other != path:
            shutil.rmtree(other, ignore_errors=True)


def _mark(part: Path) -> None:
    """Write the marker, which says how large each file is, and is on the disk whatever becomes of them."""
    sizes = {file.relative_to(part).as_posix(): file.stat().st_size for file in part.rglob("*") if file.is_file()}
    with (part / MARKER).open("w", encoding="utf-8") as marker:
        json.dump(sizes, marker)
        marker.flush()
        os.fsync(marker.fileno())


def publish(folder: Path, export: Callable[[Path], None]) -> None:
    """Write a model folder on all ranks; it is there whole or not at all.

    Raises:
        StorageUnavailable: the disk is full; what was written of this model is removed and an earlier one stays.
    """
    part = folder.with_name(f".{folder.name}.part")
    what = f"{folder}: the model"
    try:
        write_alone(lambda: _make_anew(part), what)
        write_together(lambda: export(part), what)  # nobody looks into the folder any more when it gets its name
        write_alone(lambda: _put_in_place(part, folder), what)
    except StorageUnavailable:
        if rank() == 0:
            shutil.rmtree(part, ignore_errors=True)
        raise


def _make_anew(part: Path) -> None:
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)


def _put_in_place(part: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(part, folder)


def fetch(copy: WorkingCopy, folder: Path, at_most: int) -> None:
    """Have here what the mirror has: its last committed checkpoint that is not beyond a step, and no other."""
    there = [folder / file.removesuffix(f"/{MARKER}") for file in copy.files(folder) if file.endswith(f"/{MARKER}")]
    newest = max((path for path in there if 0 <= step_of(path) <= at_most), key=step_of, default=None)
    for other in folder.glob("step-*"):
        if other != newest or not is_committed(other):
            shutil.rmtree(other)
    if newest is not None and not copy.pull_folder(newest, MARKER):
        fetch(copy, folder, at_most)  # a later one took its place meanwhile


def forget(copy: WorkingCopy, folder: Path, but: Path | None = None) -> None:
    """Remove a trial's checkpoints, here and in the mirror."""
    for name in {file.split("/")[0] for file in copy.files(folder)}:
        if folder / name != but:
            copy.drop(folder / name, MARKER)
    if but is None:
        copy.drop(folder)
