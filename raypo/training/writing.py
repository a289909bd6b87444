"""Files that all ranks write: a disk that fails one of them is told by every one, once none is still at work."""

from __future__ import annotations

import errno
from collections.abc import Callable

from safetensors import SafetensorError

from raypo.errors import StorageUnavailable
from raypo.training import comm

FULL = ("write failed", "unexpected pos", "No space left on device", "quota exceeded")
"""Words of torch's writer and of safetensors', which say what they saw without an errno."""

OUT_OF_REACH = (errno.EIO, errno.EROFS, errno.ESTALE, errno.ENOTCONN)
"""What a file system says that is away or broken: a server or network that is gone, a disk that takes nothing more."""


def write_together(write: Callable[[], object], what: str) -> None:
    """Have every rank write its part, and come back once all have; after `write` has begun to, it talks to no rank.

    An error that is not the disk's leaves at once: a rank that is gone is noticed, one that waits elsewhere is not.

    Raises:
        StorageUnavailable: on every rank, where one of them could not write; what is there of `what` is of no use.
    """
    problem = None
    try:
        write()
    except (OSError, RuntimeError, SafetensorError) as error:
        problem = _of_the_disk(error)
        if problem is None:
            raise
    problems = [p for p in comm.gather(problem) if p]
    if problems:
        raise StorageUnavailable(f"{what} could not be written, {problems[0]} and raypo resume")


def write_alone(write: Callable[[], object], what: str) -> None:
    """Have rank 0 write while the others wait; raises as `write_together` does."""
    write_together(write if comm.rank() == 0 else lambda: None, what)


def is_full(error: BaseException) -> bool:
    """Whether a disk, or a share of it, has no room left."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def is_out_of_reach(error: BaseException) -> bool:
    """Whether a file system cannot be used for now, whichever file is asked for."""
    return isinstance(error, OSError) and error.errno in OUT_OF_REACH


def _of_the_disk(error: Exception) -> str | None:
    """What a disk had against being written to, and what helps; None where it was something else that went wrong."""
    text = str(error)
    if is_full(error) or any(word in text for word in FULL):
        return "the disk is full; make room"
    return f"{text}; mend that" if isinstance(error, OSError | SafetensorError) else None
