"""DeepSpeed checkpoints at another number of ranks: through its universal format, made beside the checkpoint."""

from __future__ import annotations

import contextlib
import io
import shutil
from argparse import Namespace
from pathlib import Path

from raypo.errors import StorageError
from raypo.training import comm

FOLDER = "universal"


def ranks_of(folder: Path) -> int:
    """How many ranks wrote a DeepSpeed checkpoint; 0 where there is none."""
    return len(list(folder.glob("*zero_pp_rank_*_optim_states.pt")))


def convert(root: Path, tag: str) -> str:
    """Make root/universal out of root/tag on rank 0; every rank returns its tag.

    Raises:
        StorageError: DeepSpeed cannot convert it, or the folder is not shared by all workers.
    """
    problem = ""
    if comm.rank() == 0:
        shutil.rmtree(root / FOLDER, ignore_errors=True)
        problem = _convert(root / tag, root / FOLDER)
    comm.barrier()
    if problem or not (root / FOLDER / "zero").is_dir():
        raise StorageError(
            f"{root}: was saved by {ranks_of(root / tag)} workers and cannot be loaded by {comm.world()}, "
            f"{problem or 'the converted files are not visible to this worker'}; resume with as many workers as before"
        )
    return FOLDER


def _convert(source: Path, target: Path) -> str:
    """What went wrong, if anything."""
    from deepspeed.checkpoint import ds_to_universal

    how = Namespace(
        input_folder=str(source),
        output_folder=str(target),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            ds_to_universal.main(how)
    except (AssertionError, KeyError, ValueError, RuntimeError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return ""
