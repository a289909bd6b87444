"""What travels between the driver, the pool and the slots: plain, frozen, picklable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

State = Literal["running", "finished", "failed", "diverged", "stopped"]

Fault = Literal["job", "slot", "search"]
"""Whom an error hits: its job alone, every job that this slot does next, or every trial of the search."""


@dataclass(frozen=True)
class Job:
    """Train one trial until a fraction of its schedule and evaluate it there.

    `point` holds everything that the trial is made of (hyperparameters, training settings, `data.<transform>`);
    where it resumes is decided by the newest committed checkpoint in its folder. `kind` is "prepare" for the work
    that all trials share, "benchmark" for the study's tasks on a trained model, "trial" otherwise; `confirm` asks for
    the confirmation prompts, `rival` is the trial to beat where configurations race. `revision` is that of the study,
    which grows when a method is added to a running search.
    """

    trial: str
    label: str
    point: dict[str, Any]
    seed: int
    until: float
    kind: Literal["trial", "prepare", "benchmark"] = "trial"
    confirm: bool = False
    rival: str | None = None
    revision: int = 0

    @property
    def id(self) -> str:
        return f"{self.trial}@{self.until:.6f}" if self.kind != "benchmark" else f"{self.trial}@benchmark"

    def until_fraction(self, until: float) -> Job:
        return replace(self, until=until)

    def benchmarked(self) -> Job:
        """Have the trial's model do the study's benchmarks."""
        return replace(self, kind="benchmark")


@dataclass(frozen=True)
class Outcome:
    """What a slot says of one job: how far it came, what the evaluation found, what it cost.

    `evaluation` holds win_rate, ci_low, ci_high, n, kl, length and further plain figures; `cost_s` is device-seconds
    of this job alone. `hinders` says that what stopped it, by `reason`, would stop every other job too.
    """

    trial: str
    state: State
    fraction: float
    step: int = 0
    evaluation: dict[str, Any] = field(default_factory=dict)
    cost_s: float = 0.0
    checkpoint: str | None = None
    reason: str | None = None
    hinders: bool = False

    @property
    def over(self) -> bool:
        """Whether the trial ends here whatever the pruner thinks."""
        return self.state != "running"


Together = Callable[[Sequence[Job]], Iterator[Outcome]]
"""Has jobs done side by side and gives their outcomes as they come."""


@dataclass(frozen=True)
class Pulse:
    """Where a running job is, for the live table: fraction of the schedule and the stage of the work.

    `saved` is the fraction of the trial's newest checkpoint, for the pool: what no dead group takes away.
    """

    job: str
    trial: str
    fraction: float
    stage: str
    loss: float | None = None
    saved: float = 0.0
