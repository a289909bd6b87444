"""W&B runs as a projection of a search's record: written by one process, in order, and never twice.

Each row of a run carries its training step as W&B's own step, and rows only ever go forward. What has arrived is
therefore known from the last step alone: online, the server names it when a run is taken up again; offline files cannot
be taken up again (sending the second part would erase the first), so an interrupted one is written anew from the
record and then replaces the old. A run counts as sent once the server says that it ended, because the client reports
success even for uploads that were refused.
"""

from __future__ import annotations

import netrc
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal
from urllib.parse import urlsplit

from raypo.errors import StorageError, StudyError
from raypo.search.results import SearchResults, TrialResult
from raypo.tracking.cursor import Cursor
from raypo.tracking.record import Row, rows
from raypo.tracking.runs import configuration, fingerprint, reason, run_id, summary, tags
from raypo.tracking.tables import configuration as in_words

Mode = Literal["online", "offline", "disabled"]
ENDED = ("finished", "pruned", "failed", "diverged", "stopped")
TIMEOUT_S = 30.0


def resolve_mode(wanted: str, environment: Mapping[str, str] | None = None) -> Mode:
    """Turn a study's `tracking.wandb` into a mode; `auto` is online where a key is configured, else offline.

    Raises:
        StudyError: an unknown mode, or `online` without a key.
    """
    environment = os.environ if environment is None else environment
    if wanted not in ("auto", "online", "offline", "disabled"):
        raise StudyError(f"tracking.wandb: no such mode, got {wanted!r}; allowed: auto, online, offline, disabled")
    if wanted == "auto":
        wanted = environment.get("WANDB_MODE", "auto")
    if wanted in ("offline", "disabled"):
        return "offline" if wanted == "offline" else "disabled"
    if has_key(environment):
        return "online"
    if wanted == "online":
        raise StudyError("tracking.wandb: online needs a key, found none; run `wandb login`, or choose offline")
    return "offline"


def has_key(environment: Mapping[str, str]) -> bool:
    """Whether a W&B key is configured, by variable or in the netrc file; asks nobody and imports nothing of W&B."""
    if environment.get("WANDB_API_KEY") or environment.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(environment.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    try:
        return netrc.netrc(environment.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


@dataclass
class LiveRun:
    """An open run, the last step that was handed over, and the newest row, which waits for figures of its step."""

    run: Any
    sent: int
    held: Row | None
    earlier: list[Path]


class Projection:
    """The W&B runs of one search; used by one thread at a time, and every call may raise whatever W&B raises."""

    def __init__(self, search: SearchResults, mode: Mode, project: str, *, whole: bool = False) -> None:
        self.search, self.mode, self.project, self.whole = search, mode, project, whole
        self.cursor = Cursor.open(search.folder)
        self._runs: dict[str, LiveRun] = {}
        self._api: Any = None
        self._before = _write_under(search.folder)
        import wandb

        self._wandb: ModuleType = wandb
        server = self._wandb.setup(settings=self._wandb.Settings(silent=True)).settings
        online = f"{server.base_url}/{server.entity or ''}/{project}"
        self.destination = online if mode == "online" else "offline"

    def is_sent(self, trial: TrialResult) -> bool:
        """Whether everything that is known of a trial has been sent."""
        return self.cursor.has(self.destination, trial.name, fingerprint(trial))

    def send(self, trial: TrialResult) -> None:
        """Send what is new of a trial's record but its newest row."""
        state = self._runs.get(trial.name) or self._open(trial)
        fresh = [row for row in _settled(trial) if row["step"] > state.sent]
        for row in fresh[:-1]:
            _log(state, row)
        state.held = fresh[-1] if fresh else None

    def finish(self, trial: TrialResult) -> None:
        """Send the rest of an ended trial with its summary, close its run, and see that it has arrived."""
        self.send(trial)
        state = self._runs.pop(trial.name)
        if state.held is not None:
            _log(state, state.held)
        state.run.summary.update(summary(trial))
        state.run.tags = tuple(tags(trial))
        state.run.notes = _notes(trial)
        good = trial.state in ("finished", "pruned")
        self._close(state, exit_code=0 if good else 1)
        self.cursor.mark(self.destination, trial.name, fingerprint(trial))

    def pause(self, trial: TrialResult) -> None:
        """Close the run of a trial that will go on later; its newest row waits, since its step may still be judged."""
        self.send(trial)
        self._runs.pop(trial.name).run.finish(exit_code=1)

    def publish(self, name: str, mark: str, write: Callable[[ModuleType, Any], None], patience_s: float) -> None:
        """Write one more run of the search, or what it says now under a new step, unless `mark` says it is there."""
        if self.whole or not self.cursor.has(self.destination, name, mark):
            described = {"name": f"{self.search.name} ({name})", "settings": self._settings(patience_s)}
            state = self._begin(name, name, described)
            write(self._wandb, state.run)
            self._close(state, exit_code=0)
            self.cursor.mark(self.destination, name, mark)

    def measured(self, slot: str, rows: Sequence[Row]) -> None:
        """Send what is new of what a slot used: a run of its own, a row for each minute that the search ran."""
        mark = f"until {rows[-1]['step']}" if rows else "nothing"
        if rows and (self.whole or not self.cursor.has(self.destination, slot, mark)):
            state = self._begin(slot, "slot", {"name": slot, "settings": self._settings(TIMEOUT_S)})
            state.run.define_metric("minutes")
            state.run.define_metric("*", step_metric="minutes")
            for row in rows:
                if row["step"] > state.sent:
                    _log(state, row)
            self._close(state, exit_code=0)
            self.cursor.mark(self.destination, slot, mark)

    def close(self) -> None:
        """Stop W&B's service process, and give its variables back."""
        try:
            self._wandb.teardown()
        finally:
            for variable in self._before:
                os.environ.pop(variable, None)

    def _open(self, trial: TrialResult) -> LiveRun:
        config = configuration(self.search, trial)
        described = {"name": trial.name, "tags": tags(trial), "notes": _notes(trial), "config": config}
        described["settings"] = self._settings(TIMEOUT_S)
        state = self._begin(trial.name, trial.method, described)
        state.run.define_metric("step")
        state.run.define_metric("*", step_metric="step")
        self._runs[trial.name] = state
        return state

    def _begin(self, name: str, job_type: str, described: dict[str, Any]) -> LiveRun:
        identity = run_id(self.search.name, self.cursor.token, name)
        earlier = _folders(self.search.folder, identity)
        run = self._wandb.init(
            id=identity,
            project=self.project,
            group=self.search.name,
            job_type=job_type,
            # Without it rows that are there already would be sent again: the client appends to a run that exists.
            resume="allow" if self.mode == "online" else None,
            reinit="create_new",
            mode=self.mode,
            dir=str(self.search.folder),
            **described,
        )
        return LiveRun(run, sent=run.starting_step - 1, held=None, earlier=earlier)

    def _settings(self, finish_s: float) -> Any:
        return self._wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            save_code=False,
            program="raypo",
            host="",
            x_disable_stats=True,
            x_disable_meta=True,
            x_save_requirements=False,
            x_skip_transaction_log=self.mode == "online",
            init_timeout=TIMEOUT_S,
            finish_timeout=finish_s,
            finish_timeout_raises=True,
        )

    def _close(self, state: LiveRun, exit_code: int) -> None:
        folder = Path(state.run.settings.sync_dir)
        state.run.finish(exit_code=exit_code)
        if self.mode == "online":
            self._verify(state.run, "failed" if exit_code else "finished")
            shutil.rmtree(folder, ignore_errors=True)
        for old in state.earlier:
            shutil.rmtree(old, ignore_errors=True)

    def _verify(self, run: Any, expected: str) -> None:
        self._api = self._api or self._wandb.Api(timeout=round(TIMEOUT_S))
        found = self._api.run(f"{run.entity}/{run.project}/{run.id}").state
        if found != expected:
            raise StorageError(f"W&B run {run.id}: was not taken whole, the server says {found!r}; send it again")


def _settled(trial: TrialResult) -> list[Row]:
    """Return the rows of a trial's record that nothing can be added to: a later step may still await its evaluation."""
    known = 1.0 if trial.state in ENDED else trial.fraction
    return [row for row in rows(trial) if row["fraction"] <= known + 1e-9]


def _write_under(folder: Path) -> list[str]:
    """Point W&B's cache and logs under a search's folder where the user has not; returns the variables set."""
    wanted = {"WANDB_CACHE_DIR": "cache", "WANDB_DATA_DIR": "data"}
    free = [variable for variable in wanted if variable not in os.environ]
    os.environ.update({variable: str(folder / "wandb" / wanted[variable]) for variable in free})
    return free


def _folders(search: Path, identity: str) -> list[Path]:
    """Find the folders that earlier processes wrote for a run."""
    named = re.compile(rf"(offline-)?run-\d+_\d+-{re.escape(identity)}(-\d+)?")
    return [path for path in sorted((search / "wandb").glob("*run-*")) if named.fullmatch(path.name)]


def _log(state: LiveRun, row: Row) -> None:
    state.run.log({name: value for name, value in row.items() if value is not None}, step=row["step"], commit=True)
    state.sent = row["step"]


def _notes(trial: TrialResult) -> str:
    why = reason(trial)
    return in_words(trial.hyperparameters) + (f"\n{trial.state}: {why}" if why else "")
