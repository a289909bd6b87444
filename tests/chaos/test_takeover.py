"""Two drivers of one search: one is suspended, another machine takes the search over, and the first one wakes up."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from checking import ENDED, check, finished, table  # noqa: E402

from raypo.search.lease import STALE_S  # noqa: E402

TRIALS, SEED = 12, 5


def drive(storage: str, host: str, here: Path) -> subprocess.Popen[str]:
    """A driver on a machine of its own, with a Ray and a cache of its own."""
    words = [sys.executable, str(HERE / "search.py"), storage, "taken", str(SEED), str(TRIALS), "--host", host]
    paths = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "RAYPO_CACHE": str(here / host), "STUB_STEP_S": "0.3", "PYTHONPATH": paths}
    with (here / f"{host}.log").open("w") as log:
        return subprocess.Popen(words, stdout=log, stderr=log, text=True, env=env)


@contextlib.contextmanager
def ended(*drivers: subprocess.Popen[str]) -> Iterator[None]:
    try:
        yield
    finally:
        for driver in drivers:
            driver.send_signal(signal.SIGCONT)
            driver.terminate()
            driver.wait(60)


def ended_in(folder: Path) -> int:
    """How many trials have ended."""
    return sum(row["state"] in ENDED for row in table(folder)) if (folder / "search.json").exists() else 0


def until(some: int, folder: Path, driver: subprocess.Popen[str]) -> None:
    """Wait until that many trials have ended."""
    deadline = time.monotonic() + 240
    while ended_in(folder) < some:
        assert driver.poll() is None, "the driver ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.3)


@pytest.mark.slow
@pytest.mark.parametrize("kept", ["folder", "object store"])
def test_a_driver_that_wakes_up_finds_its_search_taken_over(tmp_path: Path, kept: str) -> None:
    storage = f"file://{tmp_path}/kept" if kept == "object store" else f"{tmp_path}/kept"
    folder = tmp_path / "kept" / "taken"
    first = drive(storage, "alpha", tmp_path)
    with ended(first):
        until(2, folder, first)
        first.send_signal(signal.SIGSTOP)
        ended_then = ended_in(folder)
        known = finished(folder)  # those of an object store have their logs on each machine
        refused = drive(storage, "beta", tmp_path)
        assert refused.wait(120) != 0
        assert "a driver runs it already (alpha, process" in (tmp_path / "beta.log").read_text()
        time.sleep(STALE_S)
        second = drive(storage, "beta", tmp_path)
        with ended(second):
            until(ended_then + 2, folder, second)
            first.send_signal(signal.SIGCONT)
            assert first.wait(120) != 0
            assert "another driver (beta, process" in (tmp_path / "alpha.log").read_text()
            assert second.wait(240) == 0, (tmp_path / "beta.log").read_text()[-3000:]
    calm = drive(f"{tmp_path}/calm", "gamma", tmp_path)
    assert calm.wait(240) == 0
    found = check(folder, tmp_path / "calm" / "taken", TRIALS, known)
    assert found.none, found
