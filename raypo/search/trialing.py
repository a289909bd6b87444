"""Training one trial up to a point of its schedule, from its newest checkpoint, bit for bit as if never interrupted."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from raypo.errors import StorageError
from raypo.json import dumps
from raypo.methods import Method
from raypo.search import checkpoints
from raypo.search.folders import READ, trial_folder
from raypo.search.jobs import Job
from raypo.search.remote import WorkingCopy
from raypo.search.together import broadcast, led, rank
from raypo.spaces import Value
from raypo.study import TRAINING_AXES
from raypo.training.settings import Optimisation, Run
from raypo.training.trainer import Trainer

LOOK_EVERY_S = 1.0
"""About how long to train between two looks at the clock and at commands; for them all ranks wait for each other."""


class Stopped(Exception):
    """The trial was stopped by a command."""


class GivenUp(Exception):
    """Another worker group has the job."""


class Pulses(Protocol):
    """What a job is told by whoever gave it."""

    cancelled: bool

    def __call__(self, fraction: float, stage: str, loss: float | None = None, saved: float = 0.0) -> None: ...

    def ours(self) -> bool: ...


def check_ours(pulse: Pulses) -> None:
    """Ask before anything is written that another worker group could write too; all ranks do so together.

    A machine that was cut off from the others looks dead to them, and goes on.

    Raises:
        GivenUp: another one has the job.
    """
    if not broadcast(rank() == 0 and pulse.ours()):
        raise GivenUp("this worker group was given up, and another one has its job")


def optimisation_of(point: Mapping[str, Value]) -> Optimisation:
    """The training settings of a trial's point."""
    settings: dict[str, Any] = {name: point[name] for name in TRAINING_AXES if name in point and name != "optimizer"}
    betas = (settings.pop("adam_beta1", 0.9), settings.pop("adam_beta2", 0.999))
    return Optimisation(**settings, betas=betas)


def run_of(method: Method, name: str, point: Mapping[str, Value], seed: int) -> Run:
    """What the trainer is asked to do for a trial."""
    hyperparameters = {key: point[key] for key in method.hyperparameters if key in point}
    return Run(name, hyperparameters, optimisation_of(point), seed)


class Segment:
    """One job's training: begins or goes on, logs every step, checkpoints now and then and at its end."""

    def __init__(self, trainer: Trainer, job: Job, copy: WorkingCopy, every_s: float, pulse: Pulses) -> None:
        self.trainer, self.job, self._every_s, self._pulse = trainer, job, every_s, pulse
        self._copy, self.folder = copy, trial_folder(copy.path, job.trial)
        self._log: list[str] = []
        self._saved = time.monotonic()
        self.kept: Path | None = None

    def run(self) -> None:
        """Train until the job's fraction of the schedule; whatever ends it, every step taken is in the log.

        The end of the schedule is checkpointed only where an interruption of what follows would cost more than an
        interval.

        Raises:
            Diverged: the loss is no number any more.
            Stopped: the trial was stopped by a command.
            GivenUp: another worker group has the job.
        """
        target = math.ceil(self.job.until * self.trainer.total_steps - 1e-9)
        self._resume(target)
        try:
            self._train(target)
            self._write_log()
        finally:
            self._rescue_log()

    @property
    def saved(self) -> float:
        """Fraction of the schedule of the newest checkpoint."""
        return checkpoints.step_of(self.kept) / self.trainer.total_steps if self.kept else 0.0

    def _train(self, target: int) -> None:
        steps = 1  # at a time; where one takes long, a notice or a command is heeded after it
        while self.trainer.step < target:
            began, first = time.monotonic(), self.trainer.step
            self.trainer.train(min(target, first + steps), self._on_step)
            each_s = (time.monotonic() - began) / (self.trainer.step - first)
            steps = max(1, int(LOOK_EVERY_S / each_s))
            cancelled, due, steps = broadcast((self._pulse.cancelled, self._due(), steps))
            if cancelled:
                self._save()
                raise Stopped
            if due and self.trainer.step < target:
                self._save()
        if target < self.trainer.total_steps or broadcast(self._due()):
            self._save()

    def _due(self) -> bool:
        return time.monotonic() - self._saved > self._every_s

    def _resume(self, target: int) -> None:
        if self._copy.mirrored:
            led(lambda: self._pull(target))
        saved = checkpoints.newest(self.folder / "checkpoints", target)
        if saved is not None:
            self.trainer.load(saved)
            self.kept = saved
        if rank() == 0:
            _forget_after(self.folder / "metrics.jsonl", self.trainer.step)

    def _on_step(self, metrics: dict[str, float]) -> None:
        fraction = self.trainer.step / self.trainer.total_steps
        if rank() == 0:
            self._log.append(dumps({"step": self.trainer.step, "fraction": fraction, **metrics, "time": time.time()}))
        self._pulse(fraction, "training", metrics.get("loss"), saved=self.saved)

    def _save(self) -> None:
        if self.kept is not None and checkpoints.step_of(self.kept) == self.trainer.step:
            return
        check_ours(self._pulse)
        self._write_log()  # steps that a checkpoint has are not taken again, so a crash must not come between
        self.kept = checkpoints.write(self.folder / "checkpoints", self.trainer.step, self.trainer.save)
        self._saved = time.monotonic()
        if self._copy.mirrored:
            led(self._push)

    def _pull(self, target: int) -> None:
        """What another machine has come to with this trial."""
        checkpoints.fetch(self._copy, self.folder / "checkpoints", target)
        self._copy.pull(*(self.folder / name for name in READ))

    def _push(self) -> None:
        assert self.kept is not None
        self._copy.push(self.folder / "metrics.jsonl")
        self._copy.push_folder(self.kept, checkpoints.MARKER)
        checkpoints.forget(self._copy, self.kept.parent, but=self.kept)

    def _write_log(self) -> None:
        if rank() == 0 and self._log:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write("\n".join(self._log) + "\n")
        self._log.clear()

    def _rescue_log(self) -> None:
        """Keep what an error left unwritten; by rank 0 alone, for the ranks may not be in step any more."""
        if self._log:
            with contextlib.suppress(OSError, StorageError):  # the error that ended the training is the one to tell
                self._write_log()
                self._copy.push(self.folder / "metrics.jsonl")


def _forget_after(path: Path, step: int) -> None:
    """Drop the log of steps that will be taken again."""
    if not path.exists():
        return
    there = path.read_text(encoding="utf-8")
    kept = "".join(f"{line}\n" for line in there.splitlines() if _step(line) <= step)
    if kept != there:
        part = path.with_name(f".{path.name}.part")
        part.write_text(kept, encoding="utf-8")
        os.replace(part, path)


def _step(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError):
        return 10**12  # torn by a crash
