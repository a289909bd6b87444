"""What searches share, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from rich import box
from rich.table import Table

from raypo.artifacts import Artifact


def to_rich(found: Sequence[Artifact]) -> Table:
    """A row per artifact, and the total."""
    total = sum(artifact.bytes for artifact in found) / 2**20
    drawn = Table(box=box.SIMPLE_HEAD, caption=f"{len(found)} artifacts, {total:.1f} MiB")
    for column in ("kind", "name", "MiB", "made", "last used"):
        drawn.add_column(column, justify="right" if column == "MiB" else "left")
    for artifact in found:
        size = f"{artifact.bytes / 2**20:.2f}"
        drawn.add_row(artifact.kind, artifact.name, size, _when(artifact.created), _when(artifact.used))
    return drawn


def as_json(found: Sequence[Artifact]) -> list[dict[str, Any]]:
    """Plain data of every artifact."""
    return [asdict(artifact) for artifact in found]


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")
