"""One driver writes a search: who lost the lease stops and touches nothing, and one alone takes a dead one."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from played import Played, new

from raypo.errors import StorageError
from raypo.search import lease as leases
from raypo.search.cluster import Cluster
from raypo.search.jobs import Job
from raypo.search.keeping_up import kept_up
from raypo.search.lease import LEASE, STALE_S, Held, lease
from raypo.search.remote import WorkingCopy
from raypo.search.searches import SearchFolder, discard_if_empty

OTHER = {"host": "elsewhere", "pid": 7, "started": 0.0, "owner": "theirs"}
LOST = r"another driver \(elsewhere, process 7\) has it .*raypo status played .*raypo resume played"


@pytest.fixture(params=["folder", "object store"])
def search(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SearchFolder:
    monkeypatch.setenv("RAYPO_CACHE", str(tmp_path / "cache"))
    return new(tmp_path / "kept" if request.param == "folder" else f"file://{tmp_path}/kept")  # type: ignore[arg-type]


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Where both drivers see the search."""
    return tmp_path / "kept" / "played"


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "REFRESH_S", 0.01)


def taken_over(kept: Path) -> str:
    """Another machine's driver has replaced the lease; what it wrote."""
    text = json.dumps({**OTHER, "beat": time.time()})
    part = kept / "part"
    part.write_text(text)
    part.replace(kept / LEASE)
    return text


def until_lost(held: Held) -> None:
    deadline = time.monotonic() + 5
    while not held.lost and time.monotonic() < deadline:
        time.sleep(0.01)


def test_who_lost_the_lease_leaves_it_to_the_other(search: SearchFolder, kept: Path) -> None:
    theirs: list[tuple[str, int]] = []

    def drive() -> None:
        with lease(search.copy, search.name) as held:
            text = taken_over(kept)
            theirs.append((text, (kept / LEASE).stat().st_mtime_ns))
            until_lost(held)
            time.sleep(0.05)

    with pytest.raises(StorageError, match=LOST):
        drive()
    assert ((kept / LEASE).read_text(), (kept / LEASE).stat().st_mtime_ns) == theirs[0]


def test_who_lost_the_lease_writes_no_more(search: SearchFolder, kept: Path) -> None:
    """The trial at work is told nothing, no other begins, and the mirror's journal stays the other driver's."""
    theirs: list[bytes] = []

    def away(job: Job) -> None:
        if job.trial == "ipo-0000":
            taken_over(kept)
            theirs.append((kept / "ledger.journal").read_bytes())
            held = search.copy.held
            assert held is not None
            until_lost(held)

    def drive() -> None:
        with lease(search.copy, search.name), kept_up(search.copy, search.journal, []):
            run = Played(search, busy=away).run()
            assert run.states == {"dpo-0000": "finished", "ipo-0000": "running"}
            assert run.rows["ipo-0000"].evaluations == ()
            assert run.conductor.stopping

    with pytest.raises(StorageError, match=LOST):
        drive()
    assert (kept / "ledger.journal").read_bytes() == theirs[0]
    with pytest.raises(StorageError, match=LOST):
        search.copy.drop(search.path)
    assert kept.exists()


def test_a_machine_that_wakes_up_looks_before_it_writes(
    search: SearchFolder, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "REFRESH_S", 3600)
    with contextlib.suppress(StorageError), lease(search.copy, search.name) as held:
        taken_over(kept)
        cluster, now = Cluster(None, "", [], held), time.time()
        cluster.check()
        monkeypatch.setattr(time, "time", lambda: now + STALE_S)
        with pytest.raises(StorageError, match=LOST):
            cluster.check()


def test_a_mirror_that_cannot_be_reached_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYPO_CACHE", str(tmp_path / "cache"))
    search = new(f"file://{tmp_path}/kept")  # type: ignore[arg-type]
    with lease(search.copy, search.name) as held:

        def unreachable() -> Any:
            raise OSError("no network")

        assert held._there is not None
        monkeypatch.setattr(held._there, "read", unreachable)
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + STALE_S)
        assert not held.lost, "it may come back and find its lease"
        with pytest.raises(StorageError, match="its lease cannot be reached"):
            search.copy.push(search.path / "search.json")
        monkeypatch.undo()


def test_of_two_that_find_a_dead_lease_one_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = WorkingCopy(tmp_path / "played")
    copy.path.mkdir()
    (copy.path / LEASE).write_text(json.dumps(OTHER))
    os.utime(copy.path / LEASE, (0, 0))
    first = Held(copy, "played")
    look, faster = leases.holder_here, [first]

    def while_looking(folder: Path) -> str | None:
        found = look(folder)
        if faster:
            faster.pop().take()
        return found

    monkeypatch.setattr(leases, "holder_here", while_looking)
    with pytest.raises(StorageError, match="a driver runs it already"):
        Held(copy, "played").take()
    first.look()
    assert not first.lost
    assert json.loads((copy.path / LEASE).read_text())["owner"] == first._mine["owner"]
    assert [path.name for path in copy.path.iterdir()] == [LEASE]


def test_a_driver_that_was_killed_holds_nothing_while_nobody_asks_for_its_process(search: SearchFolder) -> None:
    with subprocess.Popen(["sleep", "60"]) as driver:
        started = psutil.Process(driver.pid).create_time()
        owner = {"host": socket.gethostname(), "pid": driver.pid, "started": started, "owner": "theirs"}
        (search.path / LEASE).write_text(json.dumps(owner))
        assert leases.holder(search.copy) is not None
        driver.kill()
        while psutil.Process(driver.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        assert leases.holder(search.copy) is None
        with lease(search.copy, search.name):
            pass


@pytest.mark.skipif(not psutil.LINUX, reason="elsewhere processes have begun when they have")
def test_a_clock_that_is_set_gives_nobody_a_search_whose_driver_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = WorkingCopy(tmp_path / "played")
    copy.path.mkdir()
    with lease(copy, "played"):
        boot = psutil.boot_time()
        monkeypatch.setattr("psutil._pslinux.boot_time", lambda: boot + 5)
        assert leases.holder(copy) is not None
        with pytest.raises(StorageError, match="a driver runs it already"):
            Held(copy, "played").take()


def test_after_a_failure_the_search_can_be_discarded(search: SearchFolder, kept: Path) -> None:
    with pytest.raises(ValueError, match="mended"), lease(search.copy, search.name):
        raise ValueError("to be mended")
    assert search.copy.held is None
    discard_if_empty(search)
    assert not kept.exists()
