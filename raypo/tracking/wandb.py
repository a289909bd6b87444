"""W&B beside a running search: one thread owns all runs, and nothing that W&B does reaches the trials.

The search tells what happened and goes on at once. What W&B cannot take is read again from the record; the first
failure is said once, all are counted, and `replay` sends later what is missing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from raypo.search.results import SearchResults, TrialResult
from raypo.tracking.overview import write_overview
from raypo.tracking.projection import ENDED, Mode, Projection, resolve_mode
from raypo.tracking.usage import by_minute

RETRY_S = (5.0, 15.0, 60.0, 300.0)
GIVE_UP_AFTER = 2

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sent:
    """What became of a search's runs: names of runs that were sent now, that were there already, and that failed."""

    mode: Mode
    sent: tuple[str, ...]
    already: tuple[str, ...]
    unsent: tuple[str, ...]
    errors: int
    first_error: str | None


class Tracker:
    """Projects a running search into W&B. No call waits for W&B or raises because of it, but for `finish`, which waits
    at most `patience_s`."""

    def __init__(
        self,
        search: SearchResults,
        mode: str = "auto",
        project: str = "raypo",
        say: Callable[[str], None] = log.warning,
    ) -> None:
        self.mode = resolve_mode(mode)
        self._search, self._project, self._say = search, project, say
        self._changed = threading.Condition()
        self._waiting: dict[str, TrialResult] = {}
        self._results: SearchResults | None = None
        self._sync = _Sync(search, self.mode, project, say)
        self._thread = threading.Thread(target=self._work, name="raypo-wandb", daemon=True)
        if self.mode != "disabled":
            self._thread.start()

    def trial(self, trial: TrialResult) -> None:
        """Tell that a trial began, was evaluated, or went on; its run follows the record up to here."""
        self._tell(trial)

    def finish_trial(self, trial: TrialResult) -> None:
        """Tell that a trial ended; its run gets its summary and is closed."""
        self._tell(trial)

    def finish(self, results: SearchResults, patience_s: float = 120.0) -> Sent:
        """Send what is left and the search-level run, for at most `patience_s`; says what could not be sent."""
        with self._changed:
            self._results = results
            self._changed.notify()
        if self.mode != "disabled":
            self._thread.join(patience_s)
        outcome = self._sync.outcome(results)
        if outcome.unsent:
            self._say(
                f"W&B: {len(outcome.unsent)} of {len(results.trials)} runs are not there ({outcome.first_error}); "
                f"`raypo sync {results.name}` sends them"
            )
        elif self._thread.is_alive():
            self._say(f"W&B: not all is there after {patience_s:.0f} s; `raypo sync {results.name}` sends the rest")
        return outcome

    def _tell(self, trial: TrialResult) -> None:
        with self._changed:
            self._waiting[trial.name] = trial
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._results)
                waiting, self._waiting = self._waiting, {}
                results = self._results
            if results is not None:
                self._sync.everything(results)
                return
            for trial in waiting.values():
                self._sync.follow(trial)


class _Sync:
    """Attempts on a projection, one after the other: failures are counted, and held off for longer each time."""

    def __init__(
        self, search: SearchResults, mode: Mode, project: str, say: Callable[[str], None], *, whole: bool = False
    ) -> None:
        self.search, self.mode, self.project, self.say, self.whole = search, mode, project, say, whole
        self.errors, self.in_a_row, self.retry_at = 0, 0, 0.0
        self.first_error: str | None = None
        self.sent: set[str] = set()
        self.already: set[str] = set()
        self._projection: Projection | None = None

    def follow(self, trial: TrialResult) -> None:
        """Bring one run up to date, unless W&B failed a moment ago."""
        if time.monotonic() < self.retry_at:
            return
        act = self._end if trial.state in ENDED else Projection.send
        self._attempt(trial.name, partial(act, trial=trial))

    def everything(self, results: SearchResults) -> None:
        """Bring all runs up to date and write the search-level run; gives up when W&B keeps failing."""
        self.in_a_row = 0
        steps = [(trial.name, partial(self._end, trial=trial)) for trial in results.trials if trial.state in ENDED]
        steps += [
            (trial.name, partial(Projection.pause, trial=trial))
            for trial in results.trials
            if trial.state not in ENDED and trial.history
        ]
        going_on = any(trial.state not in ENDED for trial in results.trials)
        for slot, rows in by_minute(results.folder).items():
            # A minute that has not passed waits, for a step is sent once.
            steps.append((slot, partial(Projection.measured, slot=slot, rows=rows[:-1] if going_on else rows)))
        steps.append(("search", partial(write_overview, results=results)))
        for name, act in steps:
            if self.in_a_row < GIVE_UP_AFTER:
                self._attempt(name, act)
        self._close()

    def outcome(self, results: SearchResults) -> Sent:
        """Say what is where now."""
        ended = [trial.name for trial in results.trials if trial.state in ENDED and self.mode != "disabled"]
        unsent = tuple(name for name in ended if name not in self.sent | self.already)
        already = tuple(sorted(self.already - self.sent))
        return Sent(self.mode, tuple(sorted(self.sent)), already, unsent, self.errors, self.first_error)

    def _end(self, projection: Projection, trial: TrialResult) -> None:
        if projection.is_sent(trial) and not self.whole:
            self.already.add(trial.name)
        else:
            projection.finish(trial)
            self.sent.add(trial.name)

    def _attempt(self, name: str, act: Callable[[Projection], None]) -> None:
        try:
            if self._projection is None:
                self._projection = Projection(self.search, self.mode, self.project, whole=self.whole)
            act(self._projection)
            self.in_a_row, self.retry_at = 0, 0.0
        # W&B raises errors of many kinds, and none may reach a trial.
        except Exception as error:
            self._failed(name, error)

    def _failed(self, name: str, error: Exception) -> None:
        self.retry_at = time.monotonic() + RETRY_S[min(self.in_a_row, len(RETRY_S) - 1)]
        self.errors, self.in_a_row = self.errors + 1, self.in_a_row + 1
        if self.first_error is None:
            self.first_error = f"{type(error).__name__}: {error}".splitlines()[0]
            self.say(f"W&B: {name}: {self.first_error}; the search goes on, what is missing is sent later")
        log.debug("W&B: %s", name, exc_info=error)
        self._close()

    def _close(self) -> None:
        """Let go of W&B's process; after a failure a fresh one takes up the runs where the server says they stopped."""
        projection, self._projection = self._projection, None
        if projection is not None:
            try:
                projection.close()
            except Exception as error:
                log.debug("W&B: its process did not end well", exc_info=error)


def replay(
    results: SearchResults,
    mode: str = "auto",
    project: str = "raypo",
    *,
    whole: bool = False,
    say: Callable[[str], None] = log.warning,
) -> Sent:
    """Send a search from its record into W&B: what is missing there, or, with `whole`, everything anew."""
    sync = _Sync(results, resolve_mode(mode), project, say, whole=whole)
    if sync.mode != "disabled":
        sync.everything(results)
    return sync.outcome(results)
