"""A bench without a model: it takes steps, checkpoints and leaves records exactly as the real one does.

Every step is written to `work.log` in the trial's folder, so that a test can count what was done twice.
"""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.distributed as dist

from raypo.errors import Diverged, StorageUnavailable
from raypo.evaluation.completions import append
from raypo.evaluation.judges import Verdict
from raypo.search import checkpoints
from raypo.search.folders import evaluation_file, read_json, trial_folder, write_json
from raypo.search.jobs import Job, Outcome
from raypo.search.remote import WorkingCopy
from raypo.search.together import broadcast, rank
from raypo.study import build

STEPS = 12
CHECKPOINT_EVERY = 2


class StubBench:
    """Its objective is best at beta = 0.1 and has no noise; `faults/<trial>` makes it misbehave, `step_s` slow."""

    def __init__(self, study: dict[str, Any], search: str, folder: str, allow_code: bool) -> None:
        self.study = build(study, search, allow_code=allow_code)
        self.copy = WorkingCopy(folder, of="slots")
        self.folder = self.copy.path
        slow = self.folder / "step_s"
        self.step_s = float(slow.read_text() if slow.exists() else os.environ.get("STUB_STEP_S", "0.02"))

    def run(self, job: Job, pulse: Any) -> Outcome:
        if job.kind == "prepare":
            slow = self.folder / "prepare_s"
            time.sleep(float(slow.read_text()) if slow.exists() else 0)
            return Outcome(job.trial, "finished", 1.0)
        record = evaluation_file(self.folder, job.trial, job.until)
        done = broadcast(self._recorded(record) if rank() == 0 else None)
        if done is not None:
            return Outcome(**done)
        outcome = self._train(job, pulse)
        if rank() == 0:
            self._record(record, outcome)
        return outcome

    def _recorded(self, record: Path) -> Any:
        self.copy.pull(record)
        return read_json(record)

    def _record(self, record: Path, outcome: Outcome) -> None:
        folder = trial_folder(self.folder, outcome.trial)
        self.copy.push_folder(Path(str(outcome.checkpoint)), checkpoints.MARKER)
        self.copy.push(folder / "completions.parquet")
        if outcome.state != "stopped":
            write_json(record, vars(outcome))
            self.copy.push(record)

    def _train(self, job: Job, pulse: Any) -> Outcome:
        folder = trial_folder(self.folder, job.trial)
        target = math.ceil(job.until * STEPS - 1e-9)
        if rank() == 0 and self.copy.mirrored:
            checkpoints.fetch(self.copy, folder / "checkpoints", target)
            self.copy.pull(folder / "completions.parquet")
        saved = checkpoints.newest(folder / "checkpoints", target)
        step = checkpoints.step_of(saved) if saved else 0
        began = time.monotonic()
        while step < target:
            self._step(job, folder, step)
            step += 1
            pulse(step / STEPS, "training")
            cancelled = broadcast(pulse.cancelled)
            if cancelled or step % CHECKPOINT_EVERY == 0 or step == target:
                saved = checkpoints.write(folder / "checkpoints", step, lambda path: (path / f"{rank()}").touch())
            if cancelled:
                return Outcome(
                    job.trial, "stopped", step / STEPS, step, cost_s=self._cost(began), checkpoint=str(saved)
                )
        value = objective(job.point)
        figures = {
            "objective": value,
            "win_rate": value,
            "ci_low": value,
            "ci_high": value,
            "n": 1,
            "kl": 0.0,
            "length": 1.0,
        }
        state = "finished" if job.until >= 1 else "running"
        if job.until >= 1 and rank() == 0:
            self._answer(folder, value)
            figures |= {"judge": "stub", "opponent": "start"}
        return Outcome(job.trial, state, job.until, step, figures, self._cost(began), str(saved))

    def _answer(self, folder: Path, value: float) -> None:
        """Verdicts on ten prompts that come to the value, for a confirmation pools them, as further seeds are."""
        texts = [f"unseen {i}" for i in range(10)]
        append(
            folder / "completions.parquet",
            fraction=1.0,
            prompts=texts,
            answers=texts,
            opponents=texts,
            verdicts=[Verdict(value)] * 10,
            judge="stub",
        )

    def _cost(self, began: float) -> float:
        """Device-seconds that are the same in every run, unless a budget is at stake."""
        return 0.01 if self.study.search.budget is None else 2 * (time.monotonic() - began)

    def _step(self, job: Job, folder: Path, step: int) -> None:
        time.sleep(self.step_s)
        dist.all_reduce(torch.ones(1))
        if rank() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / "work.log").open("a") as log:
                log.write(f"{step}\n")
        fault = self.folder / "faults" / job.trial
        word = broadcast(fault.read_text() if rank() == 0 and fault.exists() else "")
        if word == "raise":
            raise ValueError("asked to raise")
        if word == "no room":
            raise StorageUnavailable("asked to find no room")
        if word == "diverge":
            raise Diverged("asked to diverge")
        if word == "memory once" and step == 3:
            dist.barrier()
            fault.unlink(missing_ok=True)
            raise torch.OutOfMemoryError("CUDA out of memory")
        if word == "exit once" and step == 3:
            if rank() == 1:
                fault.unlink()
                os._exit(1)
            time.sleep(30)

    def close(self) -> None:
        """Nothing to close."""


class MemoryBench:
    """Says how much of 200 MiB stays with the process after they were freed."""

    def run(self, job: Job, pulse: Any) -> Outcome:  # noqa: ARG002
        process = psutil.Process()
        before = process.memory_info().rss
        torch.ones(50 * 2**20)
        kept = (process.memory_info().rss - before) / 2**20
        return Outcome(job.trial, "finished", 1.0, evaluation={"kept_mib": kept})

    def close(self) -> None:
        """Nothing to close."""


def objective(point: dict[str, Any]) -> float:
    """0.9 at beta = 0.1, less with every factor of ten away from it."""
    return 0.9 - 0.1 * abs(math.log10(point["beta"]) + 1)
