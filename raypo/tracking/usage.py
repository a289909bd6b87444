"""What the slots used over the course of a search, read back from its record and drawn.

Time is minutes of running: while a search stood still nobody measured, and such gaps are left out.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from raypo.search.results import SearchResults
from raypo.tracking.figures import COLOURS, LIMIT, figure

FILE = "slots.jsonl"
GAP_S = 60.0
"""After how long without a word the search stood still; slots are measured more often than that."""
FIGURES = {
    "cpu_percent": ("CPU, % of one core", 1.0),
    "memory_gib": ("memory, GiB", 2**30),
    "gpu_percent": ("GPU busy, %", 1.0),
    "gpu_memory_gib": ("GPU memory, GiB", 2**30),
}
"""The figures of a slot: how they are called, and by what the record's own (`_bytes` for `_gib`) is divided."""

Row = dict[str, Any]

log = logging.getLogger(__name__)


def usage(folder: Path) -> list[Row]:
    """Return what was measured, in order, with `minutes` of running; a line that a kill cut off is left out."""
    path = folder / FILE
    if not path.exists():
        return []
    rows = []
    for count, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            rows.append({**row, "time": float(row["time"]), "slot": str(row["slot"])})
        except (ValueError, KeyError, TypeError):
            log.warning("%s: line %d is no measurement, got %.60r; left out", path, count, line)
    return _timed(sorted(rows, key=lambda row: row["time"]))


def by_minute(folder: Path) -> dict[str, list[Row]]:
    """Return a row per slot and minute of running, the mean of what was measured in it: `step` is that minute."""
    minutes: dict[str, dict[int, list[Row]]] = {}
    for row in usage(folder):
        minutes.setdefault(row["slot"], {}).setdefault(int(row["minutes"]), []).append(row)
    return {
        slot: [{"step": minute, "minutes": minute, **_means(rows)} for minute, rows in sorted(found.items())]
        for slot, found in sorted(minutes.items())
    }


def drawings(results: SearchResults) -> dict[str, go.Figure]:
    """Draw each figure that was measured over time, a line per slot."""
    slots = by_minute(results.folder)
    drawn = {}
    for name, (title, _) in FIGURES.items():
        traces = [_line(rows, name, slot, place) for place, (slot, rows) in enumerate(slots.items())]
        found = [trace for trace in traces if trace is not None]
        if found:
            drawn[name] = figure(found, "minutes of running", title, height=280)
    return drawn


def _line(rows: Sequence[Row], name: str, slot: str, place: int) -> go.Scatter | None:
    points = [(row["minutes"], row[name]) for row in rows if name in row][:: max(1, len(rows) // LIMIT)]
    if not points:
        return None
    line = {"color": COLOURS[place % len(COLOURS)], "width": 2}
    x, y = zip(*points, strict=True)
    return go.Scatter(x=x, y=y, mode="lines+markers", line=line, marker={"size": 4}, name=slot, showlegend=True)


def _timed(rows: list[Row]) -> list[Row]:
    running_s, before, timed = 0.0, rows[0]["time"] if rows else 0.0, []
    for row in rows:
        running_s += min(row["time"] - before, GAP_S)
        before = row["time"]
        timed.append({**row, "minutes": running_s / 60})
    return timed


def _means(rows: Sequence[Row]) -> Row:
    means = {}
    for name, (_, unit) in FIGURES.items():
        key = name.replace("_gib", "_bytes")
        values = [row[key] / unit for row in rows if key in row]
        if values:
            means[name] = sum(values) / len(values)
    return means
