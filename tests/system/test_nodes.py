"""Nodes that come and go: slots wait for them, are placed by GPUs, and the work of a lost one goes on elsewhere."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

CHAOS = Path(__file__).resolve().parents[1] / "chaos"
RESOURCES = '{"slots": 2, "workers": 2, "gpus_per_worker": 1}'
TRIALS = 12


class Nodes:
    """A head without GPUs, and nodes that claim to have two each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        self.address = str(self._cluster.address)

    def add(self) -> Any:
        return self._cluster.add_node(num_cpus=2, num_gpus=2, object_store_memory=80 * 1024 * 1024)

    def remove(self, node: Any) -> None:
        self._cluster.remove_node(node, allow_graceful=False)

    def close(self) -> None:
        self._cluster.shutdown()


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    paths = [str(CHAOS.parents[1]), str(CHAOS.parent)]
    monkeypatch.setenv("PYTHONPATH", ":".join(paths))
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "0")
    made = Nodes()
    yield made
    made.close()


def workers_on(node: Any) -> int:
    """Ranks of slots that live on a node."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    found = 0
    for child in raylet.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended while we looked
            found += " ".join(child.cmdline()).startswith("ray::RayTrainWorker")
    return found


def wait(until: Callable[[], bool], search: subprocess.Popen[bytes], what: str) -> None:
    deadline = time.monotonic() + 240
    while not until():
        assert search.poll() is None, f"the search ended before {what}"
        assert time.monotonic() < deadline, f"{what} took too long"
        time.sleep(0.1)


def begin(nodes: Nodes, storage: Path, step_s: float) -> subprocess.Popen[bytes]:
    (storage / "growing").mkdir()
    (storage / "growing" / "step_s").write_text(str(step_s))
    words = [sys.executable, str(CHAOS / "search.py"), str(storage), "growing", "0", str(TRIALS)]
    with (storage / "log").open("wb") as log:
        also = ["--address", nodes.address, "--resources", RESOURCES, "--pruner", "none"]
        return subprocess.Popen([*words, *also], stdout=log, stderr=log)


@pytest.mark.slow
def test_slots_follow_the_nodes(nodes: Nodes, tmp_path: Path) -> None:
    trials = tmp_path / "growing" / "trials"
    first = nodes.add()
    search = begin(nodes, tmp_path, step_s=0.4)
    try:
        wait(lambda: any(trials.glob("*/work.log")), search, "a trial ran on the one node")
        assert workers_on(first) == 2, "all ranks of a slot are on one node"
        second = nodes.add()
        wait(lambda: workers_on(second) == 2, search, "the other slot came with its node")
        nodes.remove(first)
        assert search.wait(240) == 0, (tmp_path / "log").read_text()[-3000:]
    finally:
        search.kill()
    logs = {log.parent.name: [int(line) for line in log.read_text().split()] for log in trials.glob("*/work.log")}
    assert len(logs) == TRIALS
    assert all(set(steps) == set(range(12)) for steps in logs.values()), "every trial was trained to its end"
    again = Counter(name for name, steps in logs.items() for _ in range(len(steps) - len(set(steps))))
    assert max(again.values(), default=0) <= 2, "what the lost node had done since the last checkpoint, no more"


@pytest.mark.slow
def test_a_node_with_a_notice_is_left_in_time(nodes: Nodes, tmp_path: Path) -> None:
    trials = tmp_path / "growing" / "trials"
    going = nodes.add()
    nodes.add()
    search = begin(nodes, tmp_path, step_s=0.4)
    try:
        wait(lambda: len(list(trials.glob("*/work.log"))) >= 2 and workers_on(going) == 2, search, "both slots worked")
        notice = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot", "--node-id", going.node_id]
        ray = Path(sys.executable).with_name("ray")
        subprocess.run([ray, "drain-node", "--address", nodes.address, *notice], check=True, timeout=60)
        wait(lambda: workers_on(going) == 0, search, "the slot left")
        nodes.remove(going)
        assert search.wait(240) == 0, (tmp_path / "log").read_text()[-3000:]
    finally:
        search.kill()
    logs = {log.parent.name: [int(line) for line in log.read_text().split()] for log in trials.glob("*/work.log")}
    assert len(logs) == TRIALS
    assert all(steps == list(range(12)) for steps in logs.values()), "no step was taken twice"


@pytest.mark.slow
def test_a_slot_that_fits_nowhere_is_refused(nodes: Nodes, tmp_path: Path) -> None:
    nodes.add()
    words = [sys.executable, str(CHAOS / "search.py"), str(tmp_path), "large", "0", "2", "--address", nodes.address]
    also = ["--resources", '{"slots": 2, "workers": 2, "gpus_per_worker": 4}']
    done = subprocess.run([*words, *also], capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode != 0
    assert "a slot of 2 workers needs 8 GPUs, the cluster has 2 on 2 node(s)" in done.stderr
