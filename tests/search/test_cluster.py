"""The pool is where its driver is; nobody asks Ray once it was shut down, which starts another or ends the process."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError

from raypo.errors import ClusterError
from raypo.search.cluster import Cluster

SEARCHES = Path(__file__).parents[2] / "search_spaces"
SCRIPT = """
import sys, threading, time
from pathlib import Path
import ray
from raypo.search import cluster
from raypo.search.cluster import slots_open
from raypo.search.joining import joined
from raypo.study import load

study = load(Path(sys.argv[1]))
nowhere = study.model_copy(update={"resources": study.resources.model_copy(update={"cpus_per_worker": 1000})})
cluster.LEAVE_S = 6.0
looks = []

def follow(opened):
    while True:
        looks.append((time.monotonic(), opened.view()))
        time.sleep(0.01)

with joined(study, None):
    with slots_open(nowhere, "left", Path(sys.argv[2]), "", {}, 1) as opened:
        threading.Thread(target=follow, args=(opened,), daemon=True).start()
        time.sleep(0.5)
    waiting = [slot.plan.slot for slot in opened.slots if slot.alive]
    assert not waiting, waiting
left = time.monotonic()
time.sleep(1)
assert looks[0][0] < left < looks[-1][0], "it was followed all the time"
print("Ray is", "up" if ray.is_initialized() else "down")
"""


def test_whoever_follows_a_search_or_waits_for_a_place_lets_ray_go(tmp_path: Path) -> None:
    words = [sys.executable, "-c", SCRIPT, str(SEARCHES / "quickstart.yaml"), str(tmp_path)]
    told = subprocess.run(words, stdout=subprocess.PIPE, text=True, timeout=120, check=True).stdout
    assert "Ray is down" in told


PLACED = """
import sys
import time
from pathlib import Path
import ray
from ray._private.state import actors
from ray.cluster_utils import Cluster
from raypo.search import cluster
from raypo.search.joining import joined
from raypo.study import load

study = load(Path(sys.argv[1]))
nowhere = study.model_copy(update={"resources": study.resources.model_copy(update={"cpus_per_worker": 1000})})
cluster.LEAVE_S = 6.0
nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
for _ in range(3):
    nodes.add_node(num_cpus=4, object_store_memory=80 * 1024 * 1024)
with joined(study, nodes.address):
    with cluster.slots_open(nowhere, "placed", Path(sys.argv[2]), "", {}, 1) as opened:
        ray.get(opened.pool.view.remote())
        (pool,) = [actor for actor in actors().values() if actor["Name"] == opened.pool_name]
        here = pool["Address"]["NodeID"] == ray.get_runtime_context().get_node_id()
        print("the pool is", "here" if here else "away", flush=True)
nodes.shutdown()
"""


@pytest.mark.slow
def test_the_pool_is_on_the_node_of_its_driver(tmp_path: Path) -> None:
    words = [sys.executable, "-c", PLACED, str(SEARCHES / "quickstart.yaml"), str(tmp_path)]
    told = subprocess.run(words, stdout=subprocess.PIPE, text=True, timeout=240, check=False).stdout
    assert "the pool is here" in told


@pytest.mark.parametrize(
    ("error", "gone"), [(ActorDiedError(), True), (ActorUnavailableError("restarts", None), False)]
)
def test_a_pool_that_is_gone_for_good_ends_the_search(
    error: Exception, gone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def get(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(ray, "get", get)
    opened = Cluster(SimpleNamespace(view=SimpleNamespace(remote=lambda: None)), "pool", [])
    assert opened.view() == {}
    with pytest.raises(ClusterError, match="the pool is gone") if gone else contextlib.nullcontext():
        opened.check()
