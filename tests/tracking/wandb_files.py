"""Read the files that W&B's client writes offline: a log in LevelDB's format, of protocol buffer records."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK = 32_768
HEADER = 7


@dataclass
class OfflineRun:
    """One run as its file tells it."""

    run_id: str = ""
    group: str = ""
    job_type: str = ""
    project: str = ""
    tags: list[str] = field(default_factory=list)
    notes: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None
    artifacts: list[Any] = field(default_factory=list)
    system_metrics: int = 0

    @property
    def steps(self) -> list[int]:
        return [row["_step"] for row in self.history]


def messages(data: bytes) -> list[bytes]:
    """Split a log into its messages; parts of one message that crosses blocks are put together."""
    assert data[:4] == b":W&B"
    found, parts, at = [], b"", HEADER
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + HEADER : at + HEADER + size]
        at += HEADER + size
        if kind in (1, 4):
            found.append(parts)
            parts = b""
    return found


def read_run(path: Path) -> OfflineRun:
    """Read one run file."""
    run = OfflineRun()
    for message in messages(path.read_bytes()):
        record = Record.FromString(message)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.run_id, run.group, run.job_type = record.run.run_id, record.run.run_group, record.run.job_type
            run.project, run.tags, run.notes = record.run.project, list(record.run.tags), record.run.notes
            run.config.update({item.key: json.loads(item.value_json) for item in record.run.config.update})
        elif kind == "history":
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            run.history.append(row)
        elif kind == "summary":
            run.summary.update(
                {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.summary.update}
            )
        elif kind == "artifact":
            run.artifacts.append(record.artifact)
        elif kind == "stats":
            run.system_metrics += 1
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    return run


def offline_runs(search: Path) -> dict[str, OfflineRun]:
    """Read all offline runs of a search; two files of one run are an error, since the later would erase the first."""
    runs: dict[str, OfflineRun] = {}
    for path in sorted((search / "wandb").glob("offline-run-*/run-*.wandb")):
        run = read_run(path)
        assert run.run_id not in runs, f"two files of run {run.run_id}"
        runs[run.run_id] = run
    return runs
