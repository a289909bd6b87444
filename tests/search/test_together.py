"""What one rank does for all of them: the others hear what came of it."""

from __future__ import annotations

from pathlib import Path

import torch.distributed as dist
import torch.multiprocessing as mp

from raypo.artifacts import Store
from raypo.errors import DataError, RaypoError
from raypo.search.together import led, made_alone, rank


def refuse(*_: object) -> None:
    raise DataError(f"rank {rank()} found nothing")


def break_down() -> None:
    raise KeyError("by mistake")


def heard(number: int, folder: str) -> None:
    """Write down which errors this rank saw."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=number, world_size=2)
    seen = []
    store = Store(Path(folder))
    for act in (lambda: led(refuse), lambda: made_alone(store, "tokens", {}, refuse), lambda: led(break_down)):
        try:
            act()
        except (RaypoError, KeyError) as error:
            seen.append(f"{type(error).__name__}: {error}")
    (Path(folder) / f"{number}.txt").write_text("\n".join(seen))
    dist.destroy_process_group()


def test_what_ends_the_work_of_one_rank_ends_it_on_all_as_the_same_error(tmp_path: Path) -> None:
    mp.spawn(heard, (str(tmp_path),), nprocs=2)
    first, second = ((tmp_path / f"{number}.txt").read_text().splitlines() for number in range(2))
    assert first[:2] == second[:2] == ["DataError: rank 0 found nothing"] * 2
    assert (first[2], second[2]) == ("KeyError: 'by mistake'", "ClusterError: 'by mistake'")
