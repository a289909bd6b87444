"""Who follows a running search: the terminal and W&B, told the same events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from raypo.search.cluster import Cluster
from raypo.search.conductor import LedgerConductor
from raypo.search.driver import Watcher
from raypo.search.ledger import Row
from raypo.search.reading import read_results, trial_result
from raypo.search.searches import SearchFolder
from raypo.study import Study
from raypo.tracking import lineage
from raypo.tracking.wandb import Tracker


class Both:
    """Passes every event on to each of its watchers, in order."""

    def __init__(self, watchers: Sequence[Watcher]) -> None:
        self._watchers = watchers

    def started(self, search: str, folder: Path, study: Study) -> None:
        for watcher in self._watchers:
            watcher.started(search, folder, study)

    def stage(self, text: str) -> None:
        for watcher in self._watchers:
            watcher.stage(text)

    def running(self, cluster: Cluster, conductor: LedgerConductor) -> None:
        for watcher in self._watchers:
            watcher.running(cluster, conductor)

    def event(self, kind: str, row: Row) -> None:
        for watcher in self._watchers:
            watcher.event(kind, row)

    def ended(self, search: str, folder: Path) -> None:
        for watcher in self._watchers:
            watcher.ended(search, folder)


class InWandb:
    """Tells the tracker of every trial's evaluations and end."""

    def __init__(self, found: SearchFolder, say: Callable[[str], None]) -> None:
        self._found, self._say = found, say
        self._conductor: LedgerConductor | None = None
        self._tracker: Tracker | None = None

    @property
    def _study(self) -> Study:
        """The study with the methods that were added since."""
        assert self._conductor is not None
        return self._conductor.study

    def started(self, search: str, folder: Path, study: Study) -> None:
        """Nothing to tell before the trials."""

    def stage(self, text: str) -> None:
        """Nothing to tell before the trials."""

    def running(self, cluster: Cluster, conductor: LedgerConductor) -> None:  # noqa: ARG002
        self._conductor, wanted = conductor, conductor.study.tracking
        self._tracker = Tracker(read_results(self._found, self._study), wanted.wandb, wanted.project, self._say)

    def event(self, kind: str, row: Row) -> None:
        assert self._tracker is not None
        result = trial_result(row, self._found.path, self._study)
        if kind == "ended":
            self._tracker.finish_trial(result)
        else:
            self._tracker.trial(result)

    def ended(self, search: str, folder: Path) -> None:  # noqa: ARG002
        assert self._tracker is not None
        results = read_results(self._found, self._study)
        self._found.pull_models(*(trial.name for trial in lineage.sent(results)))
        sent = self._tracker.finish(results)
        if sent.mode != "disabled":
            self._say(
                f"W&B ({sent.mode}): {len(sent.sent)} runs of this search in project {self._study.tracking.project}"
            )


def watchers(found: SearchFolder, study: Study, terminal: Watcher, say: Callable[[str], None]) -> Both:
    """The terminal first, then W&B unless the study turns it off."""
    tracked = [] if study.tracking.wandb == "disabled" else [InWandb(found, say)]
    return Both([terminal, *tracked])
