import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from synthetic import write_search

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
