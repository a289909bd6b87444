"""A study whose training is stubbed, and how it is run on the shared Ray."""

from __future__ import annotations

from pathlib import Path

from raypo.search import driver
from raypo.search.reading import read_results
from raypo.search.results import SearchResults
from raypo.search.searches import SearchFolder
from raypo.study import Study

STUB = {
    "name": "stub",
    "model": {"path": "quickstart"},
    "data": {"source": "quickstart"},
    "training": {"lr": 1e-4, "batch_size": 8},
    "methods": {
        "dpo": {"beta": {"log_uniform": [0.01, 1.0]}},
        "simpo": {"beta": {"log_uniform": [0.01, 1.0]}, "gamma_beta_ratio": 0.5},
    },
    "objective": {"judge": {"kind": "rule", "function": "quickstart"}, "at": [1 / 3, 2 / 3, 1.0]},
    "search": {"trials": 2, "sampler": "random", "pruner": "none"},
    "resources": {"slots": 1, "workers": 2},
    "tracking": {"wandb": "disabled"},
}


class Silent:
    """A watcher that remembers the events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def started(self, search: str, folder: Path, study: Study) -> None: ...
    def stage(self, text: str) -> None: ...
    def running(self, cluster: object, conductor: object) -> None: ...
    def ended(self, search: str, folder: Path) -> None: ...

    def event(self, kind: str, row: object) -> None:
        self.events.append((kind, row.name))  # type: ignore[attr-defined]


def run_stub(search: SearchFolder, study: Study) -> tuple[SearchResults, Silent]:
    """Run a search with stubbed training on the shared Ray."""
    watcher = Silent()
    driver.run(search, study, watcher, bench="stub_bench:StubBench")
    return read_results(search, study), watcher
