"""Ranks of a slot may wait for one for as long as its work takes; a slot ends a group that cannot go on."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ray.train import ControllerError, RunConfig, WorkerGroupError
from ray.train.torch.config import _setup_torch_process_group
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

from raypo.search import groups
from raypo.search.serving import SlotPlan
from raypo.search.slots import Slot

DAY_S = 24 * 3600


@pytest.mark.parametrize(("gpus", "backend"), [(0, "gloo"), (1, "nccl")])
def test_who_waits_for_another_rank_waits_for_days(
    gpus: float, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: dict[str, Any] = {}

    class Trainer:
        def __init__(self, *_: object, **arguments: Any) -> None:
            made.update(arguments)

        def fit(self) -> None:
            """Nothing to train."""

    monkeypatch.setattr(groups, "GroupTrainer", Trainer)
    Slot(SlotPlan("hh", "slot-0", "", "", "", {}, 2, 1, gpus, "PACK", str(tmp_path)))._fit()
    config = asdict(made["torch_config"])
    assert (config["backend"], config["init_method"]) == (backend, "env")
    assert config["timeout_s"] > 3 * DAY_S
    _setup_torch_process_group("gloo", 0, 1, f"file://{tmp_path}/group", config["timeout_s"])
    try:
        options = dist.group.WORLD._get_backend(torch.device("cpu")).options
        assert options._timeout.total_seconds() == config["timeout_s"], "torch takes it as it is"
    finally:
        dist.destroy_process_group()


def test_a_worker_group_begins_without_the_actors_that_a_slot_has_no_use_for(tmp_path: Path) -> None:
    config = RunConfig(name="slot-0", storage_path=str(tmp_path))
    made = [
        type(callback).__name__
        for callback in groups.GroupTrainer(print, run_config=config)._create_default_callbacks()
    ]
    assert {"AcceleratorSetupCallback", "BackendSetupCallback"} <= set(made)
    assert not {"DatasetsCallback", "PlacementGroupCleanerCallback"} & set(made)


class Group(Slot):
    """A slot whose worker groups end with the errors that it is told, after so many jobs each; then it closes."""

    def __init__(self, folder: Path, ends: list[tuple[Exception, int]]) -> None:
        super().__init__(SlotPlan("hh", "slot-0", "", "", "", {}, 1, 1, 0, "PACK", str(folder)))
        self.ends, self.jobs, self.gone = ends, 0, False
        self._closing.wait = lambda timeout=None: self._closing.is_set()  # type: ignore[method-assign]  # noqa: ARG005

    def _fit(self) -> None:
        if not self.ends:
            self._closing.set()
            return
        error, jobs = self.ends.pop(0)
        self.jobs += jobs
        raise error

    def _asked(self, what: str) -> Any:
        self.gone = self.gone or what == "gone"
        return self.jobs


DIED = WorkerGroupError("rank 0 is gone", {})
LOST = RuntimeError("the controller is gone")
NO_ROOM = ControllerError(WorkerGroupStartupTimeoutError(2))


@pytest.mark.parametrize(
    ("ends", "given_up"),
    [
        ([(DIED, 1)] * 20, False),
        ([(NO_ROOM, 0)] * 20, False),
        ([(LOST, 0)] * 4 + [(LOST, 1)] + [(LOST, 0)] * 4, False),
        ([(LOST, 0)] * 5, True),
        ([(LOST, 0)] * 3 + [(NO_ROOM, 0)] + [(LOST, 0)] * 4, False),
        ([(DIED, 1), (DIED, 0)], True),
    ],
)
def test_only_groups_that_are_never_given_a_job_cost_their_slot(
    tmp_path: Path, ends: list[tuple[Exception, int]], given_up: bool
) -> None:
    slot = Group(tmp_path, list(ends))
    slot.start()
    slot._thread.join(20)
    assert (slot.error is not None, slot.ends) == (given_up, [])
    assert slot.gone == (given_up or (NO_ROOM, 0) in ends), "others do what a slot without a place held"
