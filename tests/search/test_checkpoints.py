"""A checkpoint exists when its marker does; a full disk leaves the earlier one and says so."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from raypo.errors import StorageError
from raypo.search import checkpoints

FULL = Path("/dev/full")


def save_number(number: int):
    return lambda folder: (folder / "state").write_text(str(number))


def test_the_newest_committed_one_counts_and_earlier_ones_go(tmp_path: Path) -> None:
    for step in (2, 4):
        checkpoints.write(tmp_path, step, save_number(step))
    found = checkpoints.newest(tmp_path)
    assert found is not None
    assert (found.name, (found / "state").read_text()) == ("step-00000004", "4")
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000004"]


def test_a_half_written_one_is_never_used_and_is_cleaned(tmp_path: Path) -> None:
    checkpoints.write(tmp_path, 2, save_number(2))
    torn = tmp_path / "step-00000006"
    torn.mkdir()
    (tmp_path / ".part-00000008").mkdir()
    assert checkpoints.step_of(checkpoints.newest(tmp_path)) == 2
    checkpoints.write(tmp_path, 10, save_number(10))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000010"]


def test_one_that_a_machine_lost_with_its_power_is_never_used(tmp_path: Path) -> None:
    """What was written last was not yet on the disk: the file is there, and its end is not."""
    for trial in ("cut", "empty", "gone"):
        path = checkpoints.write(tmp_path / trial, 2, save_number(1234))
        assert checkpoints.is_committed(path)
    (tmp_path / "cut" / path.name / "state").write_text("12")
    (tmp_path / "empty" / path.name / "state").write_text("")
    (tmp_path / "gone" / path.name / "state").unlink()
    assert [checkpoints.newest(tmp_path / trial) for trial in ("cut", "empty", "gone")] == [None] * 3


def test_one_of_an_earlier_raypo_counts(tmp_path: Path) -> None:
    path = checkpoints.write(tmp_path, 2, save_number(2))
    (path / checkpoints.MARKER).write_text("")
    assert checkpoints.newest(tmp_path) == path


def test_none_beyond_a_step_is_taken(tmp_path: Path) -> None:
    checkpoints.write(tmp_path, 8, save_number(8))
    assert checkpoints.newest(tmp_path, at_most=7) is None


@pytest.mark.skipif(not FULL.exists(), reason="/dev/full stands for a full disk, and this system has none")
@pytest.mark.parametrize("how", ["torch", "file"])
def test_a_full_disk_keeps_the_earlier_checkpoint_and_says_so(tmp_path: Path, how: str) -> None:
    checkpoints.write(tmp_path, 2, save_number(2))

    def save(folder: Path) -> None:
        (folder / "state").symlink_to(FULL)
        if how == "torch":
            torch.save(torch.zeros(100_000), folder / "state")
        else:
            (folder / "state").write_text("x" * 100_000)

    with pytest.raises(StorageError, match=r"could not be written.*full.*raypo resume"):
        checkpoints.write(tmp_path, 4, save)
    assert checkpoints.step_of(checkpoints.newest(tmp_path)) == 2
    assert not list(tmp_path.glob(".part-*"))


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    def save(_: Path) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    with pytest.raises(StorageError, match="Permission denied"):
        checkpoints.write(tmp_path, 4, save)
