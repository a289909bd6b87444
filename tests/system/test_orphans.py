"""A controller that dies before its workers start leaves its slot's place to the next one."""

from __future__ import annotations

import time
from typing import Any

import pytest
import ray
from ray.util.placement_group import placement_group, placement_group_table

from raypo.search.orphans import release_orphans


@ray.remote(num_cpus=0)
class Controller:
    def reserve(self) -> str:
        self.kept = placement_group([{"CPU": 0.5}])
        ray.get(self.kept.ready())
        return str(self.kept.id.hex())

    def release(self) -> None:
        ray.util.remove_placement_group(self.kept)


def state_of(group: str) -> str:
    return str(placement_group_table()[group]["state"])


@pytest.mark.usefixtures("local_ray")
def test_what_a_dead_controller_reserved_is_free_again_and_nothing_else() -> None:
    controllers: list[Any] = [Controller.remote() for _ in range(2)]
    of_dead, of_living = ray.get([controller.reserve.remote() for controller in controllers])
    ours = placement_group([{"CPU": 0.1}])
    ray.get(ours.ready())
    assert release_orphans() == 0
    ray.kill(controllers[0])
    deadline = time.monotonic() + 30
    while not release_orphans():
        assert time.monotonic() < deadline, "Ray never said that the controller is dead"
        assert state_of(of_dead) == "CREATED", "Ray itself leaves it"
        time.sleep(0.1)
    while state_of(of_dead) != "REMOVED":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert [state_of(of_living), state_of(ours.id.hex())] == ["CREATED", "CREATED"]
    assert release_orphans() == 0
    ray.get(controllers[1].release.remote())
    ray.util.remove_placement_group(ours)
