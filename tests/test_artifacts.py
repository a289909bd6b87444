"""The store makes once, never shows half-written work, and hashes content and nothing else."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from pyarrow import fs

from raypo.artifacts import Store, hash_folder, hash_of
from raypo.artifacts.lease import lease
from raypo.errors import StorageError, StorageUnavailable

KEY = {"model": "abc", "max_length": 256}


@pytest.fixture(params=["local", "fsspec"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path):
    """A function that opens the same store as another machine would: remote ones with a cache of their own."""
    if request.param == "local":
        return lambda _machine=0: Store(tmp_path / "store")
    remote = fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem("file")))
    return lambda machine=0: Store(str(tmp_path / "bucket"), filesystem=remote, cache=tmp_path / f"cache{machine}")


def write(text: str, calls: list[str] | None = None):
    def make(folder: Path) -> None:
        (folder / "deep").mkdir()
        (folder / "deep" / "a.txt").write_text(text)
        if calls is not None:
            calls.append(text)

    return make


def test_an_artifact_is_made_once_and_found_by_every_machine(open_store) -> None:
    calls: list[str] = []
    first = open_store(0).get_or_make("tokens", KEY, write("made", calls))
    again = open_store(0).get_or_make("tokens", dict(reversed(KEY.items())), write("made again", calls))
    elsewhere = open_store(1).get_or_make("tokens", KEY, write("made elsewhere", calls))
    assert calls == ["made"]
    assert first == again
    assert (elsewhere / "deep" / "a.txt").read_text() == "made"


def test_another_key_is_another_artifact(open_store) -> None:
    store = open_store()
    a = store.get_or_make("tokens", KEY, write("256"))
    b = store.get_or_make("tokens", {**KEY, "max_length": 128}, write("128"))
    assert (a / "deep" / "a.txt").read_text() == "256"
    assert (b / "deep" / "a.txt").read_text() == "128"


def test_a_failing_maker_leaves_nothing_behind(open_store, tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half.txt").write_text("half")
        raise RuntimeError("the maker broke")

    store = open_store()
    with pytest.raises(RuntimeError, match="the maker broke"):
        store.get_or_make("tokens", KEY, fail)
    assert store.list() == ()
    assert not list(tmp_path.rglob("half.txt"))
    assert not list(tmp_path.rglob("*.lease"))
    assert (store.get_or_make("tokens", KEY, write("whole")) / "deep" / "a.txt").read_text() == "whole"


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    def full(folder: Path) -> None:
        raise OSError(28, os.strerror(28), str(folder))

    with pytest.raises(StorageError, match=r"cannot be written, .*No space left"):
        Store(tmp_path).get_or_make("tokens", KEY, full)


def test_a_half_written_artifact_is_never_used(open_store) -> None:
    """A file that is shorter than when it was committed (a crash before the data reached the disk) is made again."""
    store = open_store()
    folder = store.get_or_make("tokens", KEY, write("whole"))
    (folder / "deep" / "a.txt").write_text("who")
    assert (store.get_or_make("tokens", KEY, write("whole")) / "deep" / "a.txt").read_text() == "whole"


def test_an_upload_without_marker_is_not_read(tmp_path: Path) -> None:
    remote = fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem("file")))
    bucket = tmp_path / "bucket"
    Store(str(bucket), filesystem=remote, cache=tmp_path / "a").get_or_make("tokens", KEY, write("whole"))
    uploaded = bucket / "tokens" / hash_of(KEY)
    (uploaded / "artifact.json").unlink()
    (uploaded / "deep" / "a.txt").write_text("half")
    other = Store(str(bucket), filesystem=remote, cache=tmp_path / "b")
    assert other.list() == ()
    assert (other.get_or_make("tokens", KEY, write("whole")) / "deep" / "a.txt").read_text() == "whole"


def test_an_upload_that_lacks_a_file_is_made_again(tmp_path: Path) -> None:
    """Two makers put it there, one of whom was too slow for its lease, and the other had begun to clear the place."""
    remote = fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem("file")))
    bucket = tmp_path / "bucket"
    Store(str(bucket), filesystem=remote, cache=tmp_path / "a").get_or_make("tokens", KEY, write("whole"))
    (bucket / "tokens" / hash_of(KEY) / "deep" / "a.txt").unlink()
    for machine in ("b", "c"):
        other = Store(str(bucket), filesystem=remote, cache=tmp_path / machine)
        assert (other.get_or_make("tokens", KEY, write("whole")) / "deep" / "a.txt").read_text() == "whole"


class Down(fs.FSSpecHandler):
    """An object store that does not answer what `fails`."""

    def __init__(self, fails: str, error: Exception) -> None:
        super().__init__(fsspec.filesystem("file"))
        self.fails, self.error = fails, error

    def open_input_stream(self, path: str) -> Any:
        if path.endswith(self.fails):
            raise self.error
        return super().open_input_stream(path)

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        if self.fails in path:
            raise self.error
        return super().open_output_stream(path, metadata)


@pytest.mark.parametrize("fails", [".lease", "artifact.json", "a.txt"])
@pytest.mark.parametrize("error", [OSError("AWS Error NETWORK_CONNECTION"), ValueError("Unable to locate credentials")])
def test_an_object_store_that_does_not_answer_hinders_and_blames_nobody(
    fails: str, error: Exception, tmp_path: Path
) -> None:
    remote = fs.PyFileSystem(Down(fails, error))
    store = Store(str(tmp_path / "bucket"), filesystem=remote, cache=tmp_path / "cache")
    with pytest.raises(StorageUnavailable, match=rf"artifacts in .*bucket: cannot be used, got .*{error.args[0]}"):
        store.get_or_make("tokens", KEY, write("never"))
    assert not list(tmp_path.rglob("cache/tokens/*")), "nothing is left of it here"


def test_a_uri_opens_through_fsspec(tmp_path: Path) -> None:
    store = Store("memory://bucket/raypo", cache=tmp_path)
    store.get_or_make("tokens", KEY, write("in memory"))
    other = Store("memory://bucket/raypo", cache=tmp_path / "other").get_or_make("tokens", KEY, write("again"))
    assert (other / "deep" / "a.txt").read_text() == "in memory"


MAKER = """
    import sys, time
    from pathlib import Path
    import fsspec
    from pyarrow import fs
    from raypo.artifacts import Store
    def make(folder):
        with open(sys.argv[2], "a") as log:
            log.write("made\\n")
        (folder / "part.txt").write_text("begun")
        time.sleep(float(sys.argv[3]))
        (folder / "rest.txt").write_text("done")
    remote = fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem("file"))) if sys.argv[4] else None
    print(Store(sys.argv[1], filesystem=remote, cache=sys.argv[4]).get_or_make("tokens", {"n": 1}, make), flush=True)
"""


def start_maker(store: Path, log: Path, seconds: float, cache: Path | str = "") -> subprocess.Popen:
    command = [sys.executable, "-c", textwrap.dedent(MAKER), str(store), str(log), str(seconds), str(cache)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_processes_at_once_make_it_once(tmp_path: Path) -> None:
    makers = [start_maker(tmp_path / "store", tmp_path / "log", 0.7) for _ in range(3)]
    folders = {maker.communicate(timeout=60)[0].strip() for maker in makers}
    assert len(folders) == 1
    assert (tmp_path / "log").read_text() == "made\n"


def test_two_machines_at_once_make_it_once(tmp_path: Path) -> None:
    """Each with a cache of its own before one bucket."""
    makers = [start_maker(tmp_path / "bucket", tmp_path / "log", 1.5, tmp_path / f"cache{i}") for i in range(2)]
    folders = [Path(maker.communicate(timeout=60)[0].strip()) for maker in makers]
    assert len(set(folders)) == 2
    assert [(folder / "rest.txt").read_text() for folder in folders] == ["done", "done"]
    assert (tmp_path / "log").read_text() == "made\n"


@pytest.mark.parametrize("remote", [False, True])
def test_a_killed_makers_work_is_taken_over_at_once(remote: bool, tmp_path: Path) -> None:
    caches = [tmp_path / f"cache{i}" if remote else "" for i in range(2)]
    killed = start_maker(tmp_path / "store", tmp_path / "log", 60, caches[0])
    while not list(tmp_path.rglob("part.txt")):
        time.sleep(0.05)
    waiting = start_maker(tmp_path / "store", tmp_path / "log", 0, caches[1])
    time.sleep(0.5)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    folder = Path(waiting.communicate(timeout=30)[0].strip())
    assert (folder / "rest.txt").read_text() == "done"
    assert (tmp_path / "log").read_text() == "made\nmade\n"
    if not remote:
        assert len(list(tmp_path.rglob("part.txt"))) == 1, "the killed maker's half-written folder is still there"


def test_a_silent_lease_of_another_host_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raypo.artifacts.lease.STALE_S", 0.3)
    note = tmp_path / "tokens" / f"{hash_of(KEY)}.lease"
    note.parent.mkdir()
    note.write_text(json.dumps({"owner": "x", "host": "elsewhere", "pid": 1, "start": "1"}))
    started = time.monotonic()
    Store(tmp_path).get_or_make("tokens", KEY, write("made"))
    assert time.monotonic() - started > 0.3


def test_a_maker_whose_lease_was_taken_while_it_lived_finishes_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raypo.artifacts.lease.HEARTBEAT_S", 60)  # a heart that stands still, as on a stalled disk
    monkeypatch.setattr("raypo.artifacts.lease.STALE_S", 0.3)
    begun, taken = threading.Event(), threading.Event()

    def slow(folder: Path) -> None:
        begun.set()
        assert taken.wait(20)
        (folder / "weights").write_text("same")

    def hasty(folder: Path) -> None:
        taken.set()
        time.sleep(0.5)
        (folder / "weights").write_text("same")

    with ThreadPoolExecutor(2) as makers:
        first = makers.submit(Store(tmp_path).get_or_make, "tokens", KEY, slow)
        assert begun.wait(20)
        second = makers.submit(Store(tmp_path).get_or_make, "tokens", KEY, hasty)
        assert first.result() == second.result()
    assert (first.result() / "weights").read_text() == "same"
    assert list((tmp_path / "tokens").iterdir()) == [first.result()], "nothing is left beside it"


def test_a_heart_beats_on_after_its_storage_failed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raypo.artifacts.lease.HEARTBEAT_S", 0.02)
    beaten = threading.Event()

    class Stalls:
        """A note that cannot be read the first time."""

        reads, text = 0, ""

        def create(self, text: str) -> bool:
            self.text = text
            return True

        def read(self) -> str:
            self.reads += 1
            if self.reads == 1:
                raise OSError("503 slow down")
            return self.text

        def replace(self, text: str) -> None:
            self.text = text
            beaten.set()

        def remove(self) -> None: ...

    with lease(Stalls()):
        assert beaten.wait(5)


def test_list_sizes_and_prune(open_store) -> None:
    store = open_store()
    store.get_or_make("tokens", KEY, write("12345"))
    store.get_or_make("logps", KEY, write("123"))
    assert [(a.kind, a.bytes, a.key) for a in store.list()] == [("logps", 3, KEY), ("tokens", 5, KEY)]
    assert store.prune(unused_s=3600) == ()
    assert [a.kind for a in store.prune(unused_s=0, kind="logps")] == ["logps"]
    assert [a.kind for a in store.list()] == ["tokens"]


def test_prune_sweeps_what_a_crash_left_but_not_work_in_progress(tmp_path: Path) -> None:
    left = tmp_path / "tokens" / ".abc.123"
    left.mkdir(parents=True)
    (left / "half.txt").write_text("half")
    maker = start_maker(tmp_path, tmp_path / "log", 1.5)
    while not list(tmp_path.rglob("part.txt")):
        time.sleep(0.05)
    Store(tmp_path).prune()
    assert not left.exists()
    folder = Path(maker.communicate(timeout=30)[0].strip())
    assert (folder / "rest.txt").exists()


def test_hash_of_sees_content_only() -> None:
    assert hash_of({"a": 1, "b": (2.5, None)}) == hash_of({"b": [2.5, None], "a": 1})
    assert hash_of({"a": Path("x")}) == hash_of({"a": "x"})
    different = [1, 1.0, True, "1", [1], {"a": 1}, None, float("nan"), float("inf"), "", [], {}]
    assert len({hash_of(item) for item in different}) == len(different)
    with pytest.raises(TypeError, match="no content hash"):
        hash_of({"f": print})


def test_hash_folder_sees_contents_not_place_or_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "weights.bin").write_bytes(b"0123")
    os.utime(tmp_path / "b" / "sub" / "weights.bin", (1, 1))
    (tmp_path / "b" / ".cache").write_text("hidden")
    same = hash_folder(tmp_path / "a")
    assert hash_folder(tmp_path / "b") == same
    (tmp_path / "b" / "sub" / "weights.bin").write_bytes(b"0124")
    assert hash_folder(tmp_path / "b") != same
    with pytest.raises(StorageError, match="nothing here"):
        hash_folder(tmp_path / "c")


def test_equal_artifacts_of_two_stores_have_one_hash_whenever_they_were_made(tmp_path: Path) -> None:
    made = [Store(tmp_path / store).get_or_make("text", KEY, write("0123")) for store in ("a", "b")]
    markers = [(folder / "artifact.json").read_bytes() for folder in made]
    assert markers[0] != markers[1]
    assert hash_folder(made[0]) == hash_folder(made[1])


def test_hash_folder_reads_an_unchanged_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model" / "weights.bin"
    file.parent.mkdir()
    file.write_bytes(b"0123")
    os.utime(file, (1e9, 1e9))
    first = hash_folder(file.parent, cache=tmp_path / "notes")
    with monkeypatch.context() as patch:
        patch.setattr("raypo.artifacts.hashing._hash_file", lambda file: pytest.fail(f"{file} was read again"))
        assert hash_folder(file.parent, cache=tmp_path / "notes") == first
    file.write_bytes(b"0124")
    assert hash_folder(file.parent, cache=tmp_path / "notes") != first
    changed = hash_folder(file.parent, cache=tmp_path / "notes")
    stamp = file.stat()
    file.write_bytes(b"0125")  # at once, so that a coarse clock gives it the same time stamp
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert hash_folder(file.parent, cache=tmp_path / "notes") != changed
