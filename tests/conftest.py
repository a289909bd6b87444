"""What all tests share: no hub, one thread, and the folder of real data where there is one."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real preference data: RAYPO_SHARED/data, or shared/data beside the checkout."""
    default = Path(__file__).parents[2] / "shared"
    folder = Path(os.environ.get("RAYPO_SHARED", default)) / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set RAYPO_SHARED to the folder that holds data/")
    return folder
