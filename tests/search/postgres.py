"""A PostgreSQL server of the tests' own: a fresh cluster in a temporary folder, on a free port of loopback."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import threading
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
        with (folder / "data" / "postgresql.conf").open("a") as settings:
            settings.write(
                f"port={port}\nlisten_addresses='127.0.0.1'\nunix_socket_directories='{folder}'\nfsync=off\n"
            )
        _start(folder / "data")
        try:
            yield f"postgresql://raypo@127.0.0.1:{port}/postgres"
        finally:
            _run("pg_ctl", "-D", str(folder / "data"), "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def away(url: str, seconds: float) -> threading.Timer:
    """Stop a server, which comes back by itself after so many seconds."""
    import psycopg

    with psycopg.connect(url) as connection:
        found = connection.execute("show data_directory").fetchone()
    assert found is not None
    _run("pg_ctl", "-D", found[0], "-m", "fast", "-w", "stop")
    back = threading.Timer(seconds, _start, [Path(found[0])])
    back.start()
    return back


def _start(data: Path) -> None:
    _run("pg_ctl", "-D", str(data), "-w", "-l", str(data.parent / "log"), "start")


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
