"""What chaos kills: a driver, a slot's worker, its controller, the pool, a trial's proxy, or a whole node.

All of it belongs to a simulated cluster of this process; nothing else on the machine is touched.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).resolve().parent
KINDS = ("driver", "worker", "controller", "pool", "proxy", "node")
TITLES = {
    "worker": "ray::RayTrainWorker",
    "controller": "ray::TrainController",
    "pool": "ray::SlotPool",
    "proxy": "ray::ResourceTrainable",  # what Tune makes of TrialProxy with resources
}
NODE_BACK_S = 1.0


class Grounds:
    """A cluster of a head and two nodes, one slot on each, whose parts can be killed."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        paths = [str(HERE.parents[1]), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)
        os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")
        head = {"num_cpus": 1, "include_dashboard": True, "dashboard_port": _free_port()}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._nodes = [self._node(), self._node()]

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def close(self) -> None:
        self._cluster.shutdown()

    def _node(self) -> Any:
        return self._cluster.add_node(num_cpus=2, object_store_memory=80 * 1024 * 1024)

    def processes(self, kind: str) -> list[psutil.Process]:
        """Our processes of a kind; Ray names them in their command lines."""
        found = []
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if " ".join(process.cmdline()).startswith(TITLES[kind]):
                    found.append(process)
        return found

    def kill(self, kind: str, driver: subprocess.Popen[bytes], dice: random.Random) -> bool:
        """Kill one thing of a kind; False where there is none at this moment."""
        if kind == "driver":
            driver.send_signal(signal.SIGKILL)
            driver.wait()
            return True
        if kind == "node":
            lost = self._nodes.pop(dice.randrange(len(self._nodes)))
            self._cluster.remove_node(lost, allow_graceful=False)
            time.sleep(NODE_BACK_S)
            self._nodes.append(self._node())
            return True
        able = self.processes(kind)
        if not able:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            dice.choice(able).kill()
        return True


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextlib.contextmanager
def grounds() -> Iterator[Grounds]:
    made = Grounds()
    try:
        yield made
    finally:
        made.close()


def begin(address: str, storage: Path, name: str, seed: int, trials: int, real: bool) -> subprocess.Popen[bytes]:
    """A driver of its own process, whose words go to a log beside the searches."""
    words = [sys.executable, str(HERE / "search.py"), str(storage), name, str(seed), str(trials), "--address", address]
    with (storage / f"{name}.log").open("ab") as log:
        return subprocess.Popen([*words, *(["--real"] if real else [])], stdout=log, stderr=log)
