"""Removing what the searches of a storage share, unless one of them runs."""

from __future__ import annotations

from raypo.artifacts import Artifact
from raypo.errors import StorageError
from raypo.search.folders import artifact_store, artifacts_location, location_of
from raypo.search.lease import holder
from raypo.search.remote import WorkingCopy


def prune(storage: str, unused_s: float) -> tuple[Artifact, ...]:
    """Remove artifacts that were not used for `unused_s` seconds; returns what went.

    Raises:
        StorageError: a search runs, which needs what it began with, however long ago that was.
    """
    for name in WorkingCopy(artifacts_location(storage)).neighbours():
        driver = holder(WorkingCopy(location_of(storage, name)))
        if driver is not None:
            raise StorageError(
                f"artifacts of {storage}: {name} runs ({driver}) and may need any of them; prune once it has ended, or "
                f"end it: raypo stop {name}"
            )
    return artifact_store(storage).prune(unused_s=unused_s)
