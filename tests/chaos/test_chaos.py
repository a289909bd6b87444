"""The short form of chaos: one kill of every kind in one search."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_search_survives_one_kill_of_every_kind(tmp_path: Path) -> None:
    words = ["--kills", "6", "--trials", "8", "--gap", "1", "4", "--seed", "7", "--storage", str(tmp_path)]
    harness = Path(__file__).with_name("harness.py")
    done = subprocess.run([sys.executable, str(harness), *words], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["kills"] == dict.fromkeys(["driver", "worker", "controller", "pool", "proxy", "node"], 1)
    assert set(found["faults"].values()) == {0}, found["faults"]
