"""A disk that is full for one rank is told by all of them, and none waits where another will not come."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rank_jobs import on_a_full_disk
from safetensors import SafetensorError
from spawned import on_ranks
from training_parts import build_model

from raypo.errors import StorageError
from raypo.training.writing import write_alone

FULL = Path("/dev/full")


@pytest.mark.parametrize(("stage", "broken"), [(0, 0), (2, 0), (2, 1), (3, 1)])
def test_ranks_of_a_full_disk_hear_the_same_and_write_again_when_there_is_room(
    tmp_path: Path, stage: int, broken: int
) -> None:
    build_model(tmp_path / "model")
    first, second = on_ranks(2, on_a_full_disk, stage, str(tmp_path), broken)
    assert first == second
    assert "the checkpoint could not be written, the disk is full; make room and raypo resume" in first["checkpoint"]
    assert ("model" in first) == (broken == 0), "rank 0 alone writes it"
    assert first["step"] == "1"
    assert (tmp_path / "exported" / "model.safetensors").is_file()


@pytest.mark.skipif(not FULL.exists(), reason="/dev/full stands for a full disk, and this system has none")
@pytest.mark.parametrize("how", ["safetensors", "torch", "text"])
def test_whoever_writes_a_full_disk_is_named(tmp_path: Path, how: str) -> None:
    (tmp_path / "file").symlink_to(FULL)

    def safetensors() -> None:  # it puts another file in the place of the link
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    writes = {
        "safetensors": safetensors,
        "torch": lambda: torch.save(torch.zeros(100_000), tmp_path / "file"),
        "text": lambda: (tmp_path / "file").write_text("x" * 100_000),
    }
    with pytest.raises(StorageError, match="here: the file could not be written, the disk is full; make room"):
        write_alone(writes[how], "here: the file")


def test_another_error_of_the_disk_is_told_and_one_of_the_code_is_not_taken_for_it(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="Is a directory"):
        write_alone(lambda: tmp_path.write_text("x"), "here: the file")
    with pytest.raises(RuntimeError, match="shapes"):
        write_alone(lambda: torch.zeros(2) @ torch.zeros(3, 1), "here: the file")
