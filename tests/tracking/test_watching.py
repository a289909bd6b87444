"""W&B is told of trials what the comparison says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from played import Played, new

from raypo.search.reading import read_results
from raypo.search.results import TrialResult
from raypo.tracking import watching
from raypo.tracking.watching import InWandb


class Told:
    """In the place of the tracker: what it was told of ended trials."""

    def __init__(self, *_: Any) -> None:
        self.ended: list[TrialResult] = []

    def trial(self, result: TrialResult) -> None: ...

    def finish_trial(self, result: TrialResult) -> None:
        self.ended.append(result)


def test_the_trials_of_a_method_that_was_added_bear_its_fixed_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "Tracker", Told)
    search = new(tmp_path, trials=1)
    played = Played(search)
    watcher = InWandb(search, played.said.append)
    watcher.running(None, played.conductor)  # type: ignore[arg-type]
    played.conductor.listen(watcher.event)
    entry = {"method": "simpo", "beta": {"log_uniform": [0.1, 1.0]}, "gamma_beta_ratio": 0.3}
    played.send("add_method", method="simpo", entry=entry)
    played.run()
    assert isinstance(watcher._tracker, Told)
    told = {trial.name: trial.hyperparameters for trial in watcher._tracker.ended}
    assert told == {trial.name: trial.hyperparameters for trial in read_results(search).trials}
    assert told["simpo-0000"]["gamma_beta_ratio"] == 0.3
