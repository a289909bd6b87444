import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "search"))
sys.path.insert(0, str(Path(__file__).parent))

from synthetic import write_search
from wandb_server import WandbServer, wandb_server

from raypo.search.results import SearchResults


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> SearchResults:
    """A finished search of four methods, ten trials each; read it, do not write into it."""
    return write_search(tmp_path_factory.mktemp("searches"))


@pytest.fixture(autouse=True)
def no_wandb_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's own W&B account reaches a test, and nothing of a test reaches the account."""
    for variable in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("NETRC", os.devnull)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """A local W&B server that this machine's client takes for its own, with short timeouts."""
    monkeypatch.setattr("raypo.tracking.projection.TIMEOUT_S", 3.0)
    monkeypatch.setattr("raypo.tracking.wandb.RETRY_S", (0.2,))
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    with wandb_server() as served:
        monkeypatch.setenv("WANDB_BASE_URL", served.url)
        yield served
