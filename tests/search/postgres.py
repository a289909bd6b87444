"""A PostgreSQL server of the tests' own: a fresh cluster in a temporary folder, on a free port of loopback."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

OWNER = "postgres"
"""Who runs the server where the tests run as root, whom it refuses."""


def binaries() -> Path | None:
    """The folder of `initdb` and `pg_ctl`; Debian keeps them off the path."""
    if (found := shutil.which("initdb")) is not None:
        return Path(found).resolve().parent
    return next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)


@contextlib.contextmanager
def server() -> Iterator[str]:
    """The URL of a running server, without a password."""
    folder = Path(tempfile.mkdtemp(prefix="raypo-pg-"))
    port = _free_port()
    if os.geteuid() == 0:
        shutil.chown(folder, OWNER, OWNER)
    try:
        _run("initdb", "-D", str(folder / "data"), "-U", "raypo", "--auth=trust", "--no-sync")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
        _run("pg_ctl", "-D", str(folder / "data"), "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield f"postgresql://raypo@127.0.0.1:{port}/postgres"
        finally:
            _run("pg_ctl", "-D", str(folder / "data"), "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(name: str, *words: str) -> None:
    programme = str((binaries() or Path()) / name)
    command = [programme, *words]
    if os.geteuid() == 0:
        command = ["runuser", "-u", OWNER, "--", *command]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{name}: {done.stderr or done.stdout}"


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
