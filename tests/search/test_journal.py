"""A journal torn by a crash is mended; one damaged in the middle is refused."""

import contextlib
import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path
from time import sleep, time

import pytest
from played import Played, new

from raypo.errors import ClusterError, StorageError
from raypo.search import driver, storage
from raypo.search.commands import Commands, Standing
from raypo.search.jobs import Outcome
from raypo.search.journal import mend
from raypo.search.ledger import Ledger
from raypo.search.samplers import make_sampler
from raypo.spaces import Space

SPACE = {"beta": Space("log_uniform", (0.01, 1.0)).distribution()}


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.journal"
    ledger = Ledger(path, "s")
    for _ in range(3):
        row = ledger.ask("dpo", make_sampler("random", 0, SPACE), seed=1)
        ledger.record(row, 0, Outcome(row.name, "running", 0.5, evaluation={"objective": 0.5, "win_rate": 0.5}))
    return path


def test_a_whole_journal_is_left_alone(journal: Path) -> None:
    before = journal.read_bytes()
    assert mend(journal) is None
    assert journal.read_bytes() == before


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_a_torn_tail_is_cut_off_and_kept(journal: Path, cut: int) -> None:
    journal.write_bytes(journal.read_bytes()[:-cut])
    told = mend(journal)
    assert told is not None
    assert "torn off" in told
    assert list(journal.parent.glob("*.damaged-*"))
    rows = Ledger(journal, "s").rows()
    assert len(rows) == 3
    row = Ledger(journal, "s").ask("dpo", make_sampler("random", 0, SPACE), seed=1)
    assert Ledger(journal, "s").row(row.name).name == "dpo-0003"


@contextlib.contextmanager
def no_room_beyond(size: int) -> Iterator[None]:
    """Files take no more bytes than that: a write gets as far, and fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_finds_no_room_leaves_nothing_of_its_line(journal: Path) -> None:
    """Another thread of the driver, or a command, may find room the next moment."""
    ledger = Ledger(journal, "s")
    with pytest.raises(OSError, match="too large"), no_room_beyond(journal.stat().st_size + 30):
        ledger.enqueue("dpo", {"beta": 0.1}, "first")
    for source in ("second", "third"):
        ledger.enqueue("dpo", {"beta": 0.1}, source)
    assert mend(journal) is None
    assert [row.name for row in Ledger(journal, "s").rows()] == [f"dpo-{n:04d}" for n in range(5)]


def test_who_writes_to_a_running_search_cuts_off_what_a_dead_writer_left(journal: Path) -> None:
    ledger = Ledger(journal, "s")
    before = journal.read_bytes()
    journal.write_bytes(before + b'{"op_code":4,"worker')
    for source in ("first", "second"):
        ledger.enqueue("dpo", {"beta": 0.1}, source)
    assert journal.read_bytes().startswith(before + b'{"op_code":4,"worker_id"')
    assert [row.name for row in Ledger(journal, "s").rows()] == [f"dpo-{n:04d}" for n in range(5)]


def test_a_writer_that_stood_still_cuts_off_nothing_that_was_written_meanwhile(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its machine slept, or its network was away, for longer than a lock counts."""
    ledger, other, whole = Ledger(journal, "s"), Ledger(journal, "s"), storage._end_of_lines

    def sleeping(file: int, size: int) -> int:
        end = whole(file, size)
        monkeypatch.setattr(storage, "_end_of_lines", whole)
        journal.with_name(journal.name + ".lock").unlink()
        other.enqueue("dpo", {"beta": 0.1}, "first")
        journal.with_name(journal.name + ".lock").touch()
        return end

    monkeypatch.setattr(storage, "_end_of_lines", sleeping)
    ledger.enqueue("dpo", {"beta": 0.2}, "second")
    assert [row.name for row in Ledger(journal, "s").rows()] == [f"dpo-{n:04d}" for n in range(5)]


def test_an_entry_that_others_have_read_stays_where_its_writer_is_interrupted(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader remembers where the next entry begins."""
    ledger, driver_s = Ledger(journal, "s"), Ledger(journal, "s")

    def interrupted(_: int) -> None:
        assert len(driver_s.storage.get_all_studies()) == 2
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("raypo.search.storage.os.fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Commands(ledger).send("extend", trials=1)
    for source in ("first", "second"):
        driver_s.enqueue("dpo", {"beta": 0.1}, source)
    assert [row.name for row in Ledger(journal, "s").rows()] == [f"dpo-{n:04d}" for n in range(5)]


def test_an_entry_that_lacks_something_is_told(journal: Path) -> None:
    lines = journal.read_text().splitlines(keepends=True)
    first = next(i for i, line in enumerate(lines) if '"step"' in line)
    journal.write_text("".join([*lines[:first], lines[first].replace('"step"', '"stop"'), *lines[first + 1 :]]))
    with pytest.raises(StorageError, match=r"ledger\.journal: holds a damaged entry \(KeyError\('step'\)\)"):
        Ledger(journal, "s")


def test_whoever_reads_writes_nothing_so_that_a_torn_tail_can_still_be_mended(journal: Path) -> None:
    journal.write_bytes(journal.read_bytes()[:-7])
    before = journal.read_bytes()
    ledger = Ledger(journal, "s")
    assert len(ledger.rows()) == 3
    assert ledger.rows("simpo") == []
    assert Commands(ledger).open() == []
    assert Commands(ledger).standing() == Standing()
    assert journal.read_bytes() == before
    assert "torn off" in str(mend(journal))


@pytest.mark.parametrize("garbage", [b"garbage\n", b'{"op_code": "\xff\xfe"}\n'])
def test_a_line_that_cannot_be_read_is_a_sentence(journal: Path, garbage: bytes) -> None:
    journal.write_bytes(garbage + journal.read_bytes())
    with pytest.raises(StorageError, match=r"journal: holds a line that cannot be read .*raypo resume"):
        Ledger(journal, "s")


def test_garbage_at_the_end_is_cut_off(journal: Path) -> None:
    journal.write_bytes(journal.read_bytes() + b"\x00\x00\x00garbage\n")
    assert "torn off" in str(mend(journal))
    assert len(Ledger(journal, "s").rows()) == 3


def test_damage_in_the_middle_is_refused_with_its_line(journal: Path) -> None:
    lines = journal.read_bytes().split(b"\n")
    lines[2] = b"garbage"
    journal.write_bytes(b"\n".join(lines))
    with pytest.raises(StorageError, match="line 3 is damaged"):
        mend(journal)


def test_a_forgotten_lock_is_removed(journal: Path) -> None:
    lock = journal.with_name(journal.name + ".lock")
    lock.touch()
    os.utime(lock, (0, 0))
    assert "lock" in str(mend(journal))
    assert not lock.exists()


def test_nobody_waits_for_a_clock_that_is_ahead(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file server's, or this machine's before it was set."""
    waited = list[float]()
    lock = journal.with_name(journal.name + ".lock")
    lock.touch()
    os.utime(lock, (time() + 3600, time() + 3600))
    monkeypatch.setattr("raypo.search.journal.time.sleep", waited.append)
    assert "lock" in str(mend(journal))
    assert sum(waited) <= 5


def test_the_lock_of_a_living_process_is_its_own(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It came while another one's was looked at; the driver waits for its turn."""
    lock = journal.with_name(journal.name + ".lock")
    lock.touch()
    line = b'{"command": "of another shell"}\n'

    def write() -> None:
        with journal.open("ab") as file:
            file.write(line)
        lock.unlink()

    def wait(seconds: float) -> None:
        if seconds > 1:
            os.utime(lock, (1, 1))  # another one's
            threading.Timer(0.2, write).start()

    with monkeypatch.context() as waiting:
        waiting.setattr("raypo.search.journal.time.sleep", lambda seconds: wait(seconds) or sleep(min(seconds, 0.01)))
        assert mend(journal) is None
    assert journal.read_bytes().endswith(line)


def test_a_driver_mends_the_journal_before_it_looks_for_a_cluster(tmp_path: Path) -> None:
    """Commands reach its search from then on, and must not be written behind a line that was torn off."""
    search = new(tmp_path)
    Played(search).run()
    search.journal.write_bytes(search.journal.read_bytes()[:-7])
    with pytest.raises(ClusterError, match="nobody answers there"):
        driver.run(search, search.study(), None, address="127.0.0.1:1")  # type: ignore[arg-type]
    assert mend(search.journal) is None
