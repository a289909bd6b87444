"""Doing something once for all ranks of a slot: one rank decides, all work, one commits."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from raypo.artifacts import Store
from raypo.errors import ClusterError, Diverged, RaypoError, StorageError


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def broadcast(value: Any = None) -> Any:
    """Rank 0's value on every rank."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def led(make: Callable[[], Any]) -> Any:
    """What rank 0 makes, on every rank; what it raises there is raised on every rank."""
    if rank() != 0:
        word, found = broadcast()
        if word == "error":
            raise found
        return found
    try:
        made = make()
    except Exception as error:
        broadcast(("error", _portable(error, ClusterError)))
        raise
    broadcast(("done", made))
    return made


def _portable(error: Exception, otherwise: type[RaypoError]) -> RaypoError:
    """An error as other ranks can raise it: one of ours as it is, for whoever catches it has to do so on every rank."""
    return error if isinstance(error, RaypoError) else otherwise(str(error))


@contextlib.contextmanager
def all_cores() -> Iterator[None]:
    """Rank 0 at work while the others wait: it computes on the threads of all ranks of its machine."""
    own = torch.get_num_threads()
    torch.set_num_threads(own * int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    try:
        yield
    finally:
        torch.set_num_threads(own)


def made_together(store: Store, kind: str, key: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
    """The folder of an artifact that all ranks make together (training, scoring) when it is not there yet.

    Rank 0 holds the store's lease and commits; what it raises is raised on every rank.
    """
    if rank() == 0:
        return _lead(store, kind, key, make)
    own: Exception | None = None
    while True:
        word, found = broadcast()
        if own is not None or word == "error":
            raise own or found
        if word == "done":
            return Path(found)
        try:
            make(Path(found))
        except (Diverged, StorageError) as error:  # all ranks raise these together, and rank 0 is about to say so
            own = error


def made_alone(store: Store, kind: str, key: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
    """The folder of an artifact that rank 0 makes while the others wait."""

    def lead_only(folder: Path) -> None:
        if rank() == 0:
            with all_cores():
                make(folder)

    return made_together(store, kind, key, lead_only)


def _lead(store: Store, kind: str, key: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
    def call_all(folder: Path) -> None:
        broadcast(("make", str(folder)))
        make(folder)

    try:
        folder = store.get_or_make(kind, key, call_all)
    except Exception as error:
        broadcast(("error", _portable(error, StorageError)))
        raise
    broadcast(("done", str(folder)))
    return folder
