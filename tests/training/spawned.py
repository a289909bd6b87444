"""Run a function on several gloo ranks and hand back what each rank returned."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

# Ranks are forked from a process that has loaded what takes them seconds each.
multiprocessing.set_forkserver_preload(["raypo.training.trainer", "raypo.training.zero", "deepspeed"])


def on_ranks(world: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """[world] the results of `function(*arguments)`, which must be importable; a rank's error fails the call."""
    with tempfile.TemporaryDirectory() as folder:
        everything = (world, folder, function, arguments)
        context = mp.start_processes(_run, everything, nprocs=world, join=False, start_method="forkserver")
        while not context.join():
            pass
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world)]


def _run(rank: int, world: int, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ["LOCAL_RANK"] = str(rank)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=world)
    try:
        torch.save(function(*arguments), Path(folder) / f"{rank}.pt")
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # threads of gloo that outlive its groups abort an interpreter that ends in the usual way
