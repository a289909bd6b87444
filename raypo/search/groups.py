"""A slot's worker group as Ray Train starts it, less two processes that only delay its start."""

from __future__ import annotations

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import RayTrainCallback

UNUSED = (DatasetsCallback, PlacementGroupCleanerCallback)
"""An actor that hands out Ray Datasets, of which there are none, and one that frees what a dead controller reserved,
which `orphans` does for all slots."""


class GroupTrainer(TorchTrainer):
    """Ray Train has no setting for the actors beside its workers."""

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        made = super()._create_default_callbacks()  # type: ignore[misc]
        return [callback for callback in made if not isinstance(callback, UNUSED)]
