"""The real bench on the smallest study there is: a few steps of the embedded model, in this process, without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raypo.search.bench import TrialBench
from raypo.search.jobs import Job
from raypo.study import Study, build

SMALL: dict[str, Any] = {
    "name": "small",
    "model": {"path": "quickstart"},
    "data": {"source": "quickstart", "count": 64, "max_length": 64},
    "training": {"lr": 1e-4, "batch_size": 8, "micro_batch_size": 8, "steps": 2},
    "methods": {"dpo": {"beta": {"log_uniform": [0.01, 1.0]}}},
    "objective": {
        "judge": {"kind": "rule", "function": "quickstart"},
        "prompts": {"split": "eval", "count": 128},
        "at": [1.0],
        "sampling": {"temperature": 1.0, "max_new_tokens": 6},
    },
    "search": {"trials": 2, "sampler": "random"},
    "resources": {"zero_stage": 0},
    "tracking": {"wandb": "disabled"},
}


def small_study(storage: Path, *, allow_code: bool = False, **sections: Any) -> Study:
    """`SMALL` with some keys of its sections replaced."""
    content = {**SMALL, "storage": str(storage)}
    for name, keys in sections.items():
        content[name] = {**content.get(name, {}), **keys}
    return build(content, "small", allow_code=allow_code)


class Pulse:
    """Listens to a job and never stops it."""

    cancelled = False

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.saved: list[float] = []

    def ours(self) -> bool:
        return True

    def __call__(self, _fraction: float, stage: str, _loss: float | None = None, saved: float = 0.0) -> None:
        self.stages.append(stage)
        self.saved += [saved] if stage == "training" else []


def open_bench(study: Study, folder: Path) -> TrialBench:
    """A bench for which everything that trials share is made."""
    bench = TrialBench(study.written(), study.name, str(folder), study.allow_code)
    assert bench.run(Job("prepare", "prepare", {}, 0, 1.0, kind="prepare"), Pulse()).state == "finished"
    return bench


def job_of(study: Study, trial: str, beta: float = 0.1, **changes: Any) -> Job:
    label = trial.rpartition("-")[0]
    return Job(trial, label, {**study.fixed(label), "beta": beta}, 7, 1.0, **changes)
