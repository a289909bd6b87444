"""A checkpoint that somebody else wrote runs nothing."""

import os
from pathlib import Path

import pytest
import torch

from raypo.errors import StorageError
from raypo.training.unpickling import pickle_stages_by_value, tensors_only


class Intruder:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("intruded",)


def test_code_in_a_checkpoint_is_refused_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": torch.ones(2), "optimizer": Intruder()}, tmp_path / "states.pt")
    with pytest.raises(StorageError, match=r"holds posix\.mkdir, which raypo does not write"), tensors_only(tmp_path):
        torch.load(tmp_path / "states.pt", weights_only=False)
    assert not (tmp_path / "intruded").exists()


def test_outside_everything_is_as_it_was(tmp_path: Path) -> None:
    torch.save(Path("a"), tmp_path / "path.pt")
    with tensors_only(tmp_path):
        pass
    assert torch.load(tmp_path / "path.pt", weights_only=False) == Path("a")


def test_a_stage_is_written_as_its_value_where_python_would_write_a_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deepspeed.runtime.zero.config import ZeroStageEnum

    def as_3_11_2_does(stage: ZeroStageEnum, _: int) -> tuple[object, tuple[object, str]]:
        return getattr, (type(stage), stage.name)

    monkeypatch.setattr(ZeroStageEnum, "__reduce_ex__", as_3_11_2_does)
    pickle_stages_by_value()
    torch.save({"stage": ZeroStageEnum.gradients}, tmp_path / "states.pt")
    with tensors_only(tmp_path):
        assert torch.load(tmp_path / "states.pt", weights_only=False) == {"stage": ZeroStageEnum.gradients}
