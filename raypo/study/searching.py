"""Sections `search`, `confirm`, `benchmarks`, `resources` and `tracking`: how a search goes, and on what."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from raypo.study.objective import Prompts
from raypo.study.values import Count, NonNegative, Positive, Section, Seed, Whole


class Repeats(Section):
    """Train a configuration with several seeds, as one trial whose value is their average."""

    seeds: Count = 1
    promising_only: bool = False


class Budget(Section):
    """What the trials of a search may use: device-hours at work, or hours of the clock while a driver runs."""

    gpu_hours: Positive | None = None
    wall_hours: Positive | None = None

    @model_validator(mode="after")
    def _one_limit(self) -> Budget:
        if (self.gpu_hours is None) == (self.wall_hours is None):
            raise ValueError("needs either gpu_hours or wall_hours, and not both")
        return self


class Search(Section):
    """How points are chosen, and how many; with a budget and no count, as many trials as it holds."""

    trials: Count | None = 16
    budget: Budget | None = None
    fair: Literal["trials", "gpu_hours"] = "trials"
    repeats: Repeats = Repeats()
    priors: bool = False
    sampler: Literal["tpe", "gp", "cmaes", "random", "grid", "nsga2"] = "tpe"
    pruner: Literal["none", "successive_halving", "hyperband", "median", "wilcoxon"] | None = None
    seed: Seed = 0
    constraints: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _as_many_as_it_holds(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("budget") is not None:
            return {"trials": None, **values}
        return values

    @model_validator(mode="after")
    def _bounded(self) -> Search:
        if self.trials is None and self.budget is None:
            raise ValueError("needs trials or a budget")
        if self.fair == "gpu_hours" and self.budget is None:
            raise ValueError("fair: gpu_hours shares out a budget, and there is none; set search.budget")
        if self.priors and self.sampler == "grid":
            raise ValueError("priors: a grid tries all of its cells and no others; set priors to false")
        return self


class Confirm(Section):
    """Train the best configurations again and judge them on prompts that the search never saw."""

    top: Annotated[Whole, Field(ge=0)] = 0
    seeds: Count = 2
    prompts: Prompts | None = None


class Benchmarks(Section):
    """Tasks of lm-evaluation-harness for each method's winner, by name or as a YAML file; `limit` examples of each."""

    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    limit: Count | None = None


class Resources(Section):
    slots: Count = 1
    workers: Count = 1
    gpus_per_worker: NonNegative = 0.0
    cpus_per_worker: NonNegative = 1.0
    zero_stage: Annotated[Whole, Field(ge=0, le=3)] = 2
    offload: bool = False
    placement: Literal["PACK", "STRICT_PACK", "SPREAD", "STRICT_SPREAD"] = "PACK"
    recycle_after: Count = 200


class Tracking(Section):
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "raypo"
    models: bool = True
