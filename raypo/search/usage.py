"""What a slot uses of its machine: every rank measures its own process, and the pool keeps the sum of each slot.

A thread measures, so that a long step does not hold it up and an idle slot is seen as well; nothing waits for it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

EVERY_S = 10.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Use:
    """What one process uses: CPU in percent of one core, bytes of memory, and of its GPU where it has one."""

    cpu_percent: float
    memory_bytes: int
    gpu_percent: float | None = None
    gpu_memory_bytes: int | None = None


@contextlib.contextmanager
def measured(tell: Callable[[Use], object], device: Any = None, every_s: float = EVERY_S) -> Iterator[None]:
    """Tell what this process uses, every `every_s` seconds until the block ends; `device` is its GPU."""
    ended = threading.Event()
    thread = threading.Thread(target=_measure, args=(tell, device, every_s, ended), name="raypo-usage", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()


def _measure(tell: Callable[[Use], object], device: Any, every_s: float, ended: threading.Event) -> None:
    process = psutil.Process()
    process.cpu_percent()  # the first answer is always 0: it starts the clock
    while not ended.wait(every_s):
        try:
            tell(Use(process.cpu_percent(), process.memory_info().rss, *_of_gpu(device)))
        except Exception:
            # A record of use is worth less than the job beside it.
            log.warning("what this worker uses is measured no more", exc_info=True)
            return


def _of_gpu(device: Any) -> tuple[float | None, int | None]:
    """(percent of the time that kernels ran, bytes that this process holds); asked for only once CUDA is in use."""
    torch = sys.modules.get("torch")
    if device is None or torch is None or not torch.cuda.is_initialized():
        return None, None
    busy: float | None = None
    with contextlib.suppress(Exception):  # no NVML, or a part of a GPU that it says nothing about
        busy = float(torch.cuda.utilization(device))
    return busy, int(torch.cuda.memory_reserved(device))


def keep(path: Path, slot: str, trial: str | None, uses: Sequence[Use]) -> None:
    """Append a slot's use to the record: a line with the sums over its ranks, the mean of what their GPUs do."""
    busy = [use.gpu_percent for use in uses if use.gpu_percent is not None]
    held = [use.gpu_memory_bytes for use in uses if use.gpu_memory_bytes is not None]
    row = {
        "time": time.time(),
        "slot": slot,
        "trial": trial,
        "cpu_percent": round(sum(use.cpu_percent for use in uses), 1),
        "memory_bytes": sum(use.memory_bytes for use in uses),
        **({"gpu_percent": sum(busy) / len(busy)} if busy else {}),
        **({"gpu_memory_bytes": sum(held)} if held else {}),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
