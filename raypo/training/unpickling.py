"""DeepSpeed unpickles its checkpoints whole, and a pickle can run anything: here it gets tensors and plain records."""

from __future__ import annotations

import copyreg
import os
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from raypo.errors import StorageError

_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


@contextmanager
def tensors_only(folder: Path) -> Iterator[None]:
    """Whatever calls `torch.load` inside reads tensors, plain values and DeepSpeed's records, and runs nothing.

    Raises:
        StorageError: a file in `folder` holds something else.
    """
    before = os.environ.get(_FORCE)
    os.environ[_FORCE] = "1"
    try:
        with torch.serialization.safe_globals(_records()):
            yield
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        raise StorageError(
            f"{folder}: the checkpoint holds {found[1] if found else 'more than tensors'}, which raypo does not write; "
            f"if nobody touched the folder, remove it to begin the trial anew"
        ) from None
    finally:
        os.environ.pop(_FORCE)
        if before is not None:
            os.environ[_FORCE] = before


def pickle_stages_by_value() -> None:
    """Have DeepSpeed's stage written as its value on every Python: 3.11.2 writes a call of `getattr` for an enum."""
    from deepspeed.runtime.zero.config import ZeroStageEnum

    copyreg.pickle(ZeroStageEnum, _by_value)


def _by_value(stage: Any) -> tuple[Any, tuple[int]]:
    return type(stage), (int(stage.value),)


def _records() -> list[Any]:
    """The classes that DeepSpeed 0.19 writes beside tensors."""
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return [LossScaler, ZeroStageEnum, fragment_address]
