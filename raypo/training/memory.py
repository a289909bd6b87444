"""Memory that is given back before more is taken, and out of memory, said so that a person knows what to lower."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from raypo.errors import ClusterError
from raypo.training.layout import MicroBatch
from raypo.training.settings import EngineSetup


def give_back() -> None:
    """Free what nothing refers to any more, cycles too, and what a GPU's allocator keeps of it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def out_of_memory_said(setup: EngineSetup, batch: MicroBatch) -> Iterator[None]:
    """Turn an allocation failure in a micro-batch into a ClusterError that names batch, lengths and remedies."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ClusterError(_message(setup, batch)) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a device or on the host."""
    text = str(error)
    known = "allocate memory" in text or "out of memory" in text or "not enough memory" in text
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or known


def _message(setup: EngineSetup, batch: MicroBatch) -> str:
    widths = [width for p in batch.passes for width in p.widths]
    remedies = [
        (setup.micro_batch_size > 1, "training.micro_batch_size"),
        (True, "data.max_length"),
    ]
    switches = [
        (not setup.gradient_checkpointing, "model.gradient_checkpointing: true"),
        (setup.zero_stage < 3, f"resources.zero_stage: 3 (now {setup.zero_stage})"),
        (setup.zero_stage > 0 and not setup.offload, "resources.offload: true"),
    ]
    lower = " or ".join(text for helps, text in remedies if helps)
    turn_on = ", ".join(text for helps, text in switches if helps)
    return (
        f"training: out of memory with {len(batch.examples)} examples in {len(widths)} rows "
        f"of up to {max(widths)} tokens; lower {lower}" + (f", or set {turn_on}" if turn_on else "")
    )
