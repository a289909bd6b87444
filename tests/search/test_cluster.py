"""Leaving a cluster: whoever still follows a search afterwards wakes nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SEARCHES = Path(__file__).parents[2] / "search_spaces"
SCRIPT = """
import sys, threading, time
from pathlib import Path
import ray
from raypo.search.cluster import slots_open
from raypo.search.joining import joined
from raypo.study import load

study = load(Path(sys.argv[1]))
looks = []

def follow(cluster):
    while True:
        looks.append((time.monotonic(), cluster.view()))
        time.sleep(0.01)

with joined(study, None):
    with slots_open(study, "left", Path(sys.argv[2]), "", {}, 1) as cluster:
        threading.Thread(target=follow, args=(cluster,), daemon=True).start()
        time.sleep(0.5)
left = time.monotonic()
time.sleep(1)
assert looks[0][0] < left < looks[-1][0], "it was followed all the time"
print("Ray is", "up" if ray.is_initialized() else "down")
"""


def test_a_thread_that_looks_after_the_end_starts_no_ray(tmp_path: Path) -> None:
    words = [sys.executable, "-c", SCRIPT, str(SEARCHES / "quickstart.yaml"), str(tmp_path)]
    told = subprocess.run(words, stdout=subprocess.PIPE, text=True, timeout=120, check=True).stdout
    assert "Ray is down" in told
