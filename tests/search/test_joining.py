"""Joining a cluster: an address at which nobody answers is said at once and in words."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import ray

from raypo.errors import ClusterError
from raypo.search import joining
from raypo.search.joining import check_resources, joined
from raypo.study import Study, load

STUDY = load(Path(__file__).parents[2] / "search_spaces" / "quickstart.yaml")


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "[::1]:9", "127.0.0.1:99999"])
def test_an_address_without_a_cluster_is_refused_at_once(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    begun = time.monotonic()
    with pytest.raises(ClusterError, match=r"nobody answers there .*ray start"), joined(STUDY, address):
        pass
    assert time.monotonic() - begun < 10


def test_a_cluster_that_cannot_start_is_a_sentence_with_the_place_of_its_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(**_: object) -> None:
        raise Exception("The current node timed out during startup.\nmore")  # what Ray raises, word for word

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", late)
    words = r"on this machine: The current node timed out during startup\.; .*logs"
    with pytest.raises(ClusterError, match=words), joined(STUDY, None):
        pass


# placement, workers of a slot, slots, GPUs of each node, whether they fit
PLACES: list[tuple[str, int, int, list[int], bool]] = [
    ("STRICT_SPREAD", 2, 1, [8], False),
    ("STRICT_SPREAD", 2, 1, [1, 1], True),
    ("STRICT_SPREAD", 2, 2, [3, 1], False),  # each slot needs both nodes, and one has room for one worker only
    ("STRICT_SPREAD", 2, 2, [2, 1, 1], True),
    ("STRICT_PACK", 16, 1, [8, 8], False),
    ("STRICT_PACK", 8, 2, [8, 8], True),
    ("STRICT_PACK", 5, 2, [8, 8], True),
    ("STRICT_PACK", 5, 3, [8, 8], False),
    ("PACK", 16, 1, [8, 8], True),
    ("SPREAD", 16, 1, [16], True),
]


def nodes_of(monkeypatch: pytest.MonkeyPatch, gpus: list[int], to_come: float = 0.0) -> None:
    nodes = [{"Alive": True, "Resources": {"GPU": n, "CPU": 64.0}} for n in gpus]
    gone = {"Alive": False, "Resources": {"GPU": 64.0, "CPU": 64.0}}
    monkeypatch.setattr(ray, "nodes", lambda: [*nodes, gone])
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": sum(gpus), "CPU": 64.0 * len(gpus)})
    monkeypatch.setattr(joining, "_to_come", lambda _: to_come)


def wanting(**resources: Any) -> Study:
    wanted = STUDY.resources.model_copy(update={"gpus_per_worker": 1.0, **resources})
    return STUDY.model_copy(update={"resources": wanted})


@pytest.mark.parametrize(("placement", "workers", "slots", "gpus", "fits"), PLACES)
def test_workers_that_no_node_can_take_are_refused_before_they_wait_for_ever(
    placement: str, workers: int, slots: int, gpus: list[int], fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes_of(monkeypatch, gpus)
    study = wanting(placement=placement, workers=workers, slots=slots)
    if fits:
        check_resources(study, growing=False)
        return
    rooms = ", ".join(map(str, gpus))
    words = rf"placement {placement} .*{workers} workers .*{len(gpus)} node\(s\) with room for {rooms} workers; .*PACK"
    with pytest.raises(ClusterError, match=words):
        check_resources(study, growing=False)


def test_a_worker_is_on_one_node_whatever_the_placement(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes_of(monkeypatch, [1, 1])
    with pytest.raises(ClusterError, match="with room for 0, 0 workers"):
        check_resources(wanting(gpus_per_worker=2.0, workers=1), growing=False)


def test_where_nodes_may_come_a_placement_waits_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    study = wanting(placement="STRICT_SPREAD", workers=2)
    nodes_of(monkeypatch, [8], to_come=64.0)
    check_resources(study, growing=True)
    nodes_of(monkeypatch, [8])
    with pytest.raises(ClusterError, match="STRICT_SPREAD"):
        check_resources(study, growing=True)  # another one's cluster, without an autoscaler


@pytest.mark.parametrize(
    ("placement", "workers", "gpus", "growing", "refused"),
    [
        ("PACK", 2, [8], True, True),
        ("SPREAD", 2, [8, 8], False, True),
        ("PACK", 2, [8], False, False),  # a cluster of this machine
        ("PACK", 1, [8, 8], True, False),
        ("STRICT_PACK", 2, [8, 8], True, False),
    ],
)
def test_with_an_object_store_a_slot_has_to_be_on_one_node(
    placement: str, workers: int, gpus: list[int], growing: bool, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes_of(monkeypatch, gpus)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"GPU": n, "CPU": 64.0}} for n in gpus])
    study = wanting(placement=placement, workers=workers, slots=1)
    check_resources(study, growing)
    if not refused:
        check_resources(study, growing, mirrored=True)
        return
    with pytest.raises(ClusterError, match=rf"placement {placement} may put the 2 workers .*STRICT_PACK"):
        check_resources(study, growing, mirrored=True)
