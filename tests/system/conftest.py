"""One local Ray for all tests of this folder that can share it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from stubbed import STUB

from raypo.search.joining import joined
from raypo.study import Study, build


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    with joined(build({**STUB, "resources": {"slots": 2, "workers": 2}}, "stub"), None):
        yield


@pytest.fixture
def stub_study(tmp_path: Path) -> Study:
    return build({**STUB, "storage": str(tmp_path)}, "stub")
