"""The two ways to search that `search_replay.py` compares: raypo's, and Ray Tune's own classes as they come."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import optuna
from optuna.trial import TrialState
from replay_problems import Problem

from raypo.search.clock import Clock, Timeline
from raypo.search.pruners import make_pruner, rungs_of
from raypo.search.rows import Known
from raypo.search.samplers import make_sampler, seed_of

AT = (1 / 3, 2 / 3, 1.0)
"""Fractions of the schedule that raypo evaluates at; the first of them is the first that may end a trial."""


@dataclass
class Run:
    """One trial under way: its configuration, what was measured at which step, and where it is."""

    number: int
    params: dict[str, Any]
    values: dict[int, float] = field(default_factory=dict)
    handle: Any = None
    over: bool = False


class Arm(ABC):
    """A way to search: what to try next, whether to go on, which one to pick."""

    def __init__(self, problem: Problem, seed: int, workers: int) -> None:
        self.problem, self.seed, self.workers = problem, seed, workers
        self.runs: list[Run] = []

    steps: Sequence[int]
    finishes_what_it_starts = True

    @abstractmethod
    def start(self) -> Run | None:
        """The next trial, or None while it has to wait."""

    @abstractmethod
    def stops(self, run: Run, step: int) -> bool:
        """Hear of a new value and say whether the trial ends here."""

    @abstractmethod
    def pick(self) -> Run | None:
        """The trial whose configuration is the search's answer."""

    def measure(self, run: Run, step: int) -> float:
        return float(self.problem.scores(run.params, step, self.noise_seed(run.number, step)).mean())

    def noise_seed(self, number: int, step: int) -> int:
        return seed_of(self.seed, f"noise {step}", number)


class Raypo(Arm):
    """Ours: the ledger's sampler and pruner, pruned trials told as pruned, winners among fully trained ones."""

    def __init__(
        self,
        problem: Problem,
        seed: int,
        workers: int,
        *,
        sampler: str,
        pruner: str,
        at: Sequence[float] = AT,
        first: float = AT[0],
    ) -> None:
        super().__init__(problem, seed, workers)
        self.steps = [round(fraction * problem.horizon) for fraction in at]
        clock = Clock(tuple(at), rungs=() if pruner == "none" else rungs_of(at, first))
        self.sampler = make_sampler(sampler, seed, problem.space, clock=clock)
        self.timeline = Timeline(clock)
        self.study = optuna.create_study(direction="maximize", study_name=problem.name, sampler=self.sampler)
        self.pruner = make_pruner(pruner, at, first=first, scores=self.scores, clock=clock)

    def scores(self, number: int, index: int) -> dict[str, float]:
        run, step = self.runs[number], self.steps[index]
        scores = self.problem.scores(run.params, step, self.noise_seed(number, step))
        return dict(zip(map(str, range(len(scores))), scores, strict=True))

    def start(self) -> Run | None:
        trials = self.study.get_trials(deepcopy=False)
        now = self.timeline.next(self.workers, Known(trials), trials.__getitem__)
        if now is None:
            return None
        trial = self.sampler.ask(self.study, now=now)
        self.runs.append(Run(trial.number, trial.params, handle=trial))
        return self.runs[-1]

    def stops(self, run: Run, step: int) -> bool:
        run.handle.report(run.values[step], self.steps.index(step))
        run.handle.set_user_attr(f"evaluation:{self.steps.index(step)}", {})
        if step == self.problem.horizon:
            self.study.tell(run.handle, run.values[step])
            return True
        if self.pruner.prune(self.study, self.study.get_trials(deepcopy=False)[run.number]):
            self.study.tell(run.handle, state=TrialState.PRUNED)
            return True
        return False

    def pick(self) -> Run | None:
        trained = [run for run in self.runs if self.problem.horizon in run.values]
        return max(trained, key=lambda run: run.values[self.problem.horizon], default=None)


class TuneAsShipped(Arm):
    """Ray Tune's `ASHAScheduler` with `OptunaSearch`, every step reported, the best last value picked."""

    finishes_what_it_starts = False

    def __init__(self, problem: Problem, seed: int, workers: int, *, grace: float, factor: int) -> None:
        from ray.tune.schedulers import ASHAScheduler
        from ray.tune.search.optuna import OptunaSearch

        super().__init__(problem, seed, workers)
        horizon = problem.horizon
        self.steps = range(1, horizon + 1)
        self.searcher = OptunaSearch(space=dict(problem.space), metric="value", mode="max", seed=seed)
        self.scheduler = ASHAScheduler(
            metric="value",
            mode="max",
            max_t=horizon,
            grace_period=max(1, round(grace * horizon)),
            reduction_factor=factor,
        )

    def start(self) -> Run | None:
        number = len(self.runs)
        run = Run(number, self.searcher.suggest(str(number)), handle=SimpleNamespace(trial_id=str(number)))
        self.scheduler.on_trial_add(None, run.handle)
        self.runs.append(run)
        return run

    def stops(self, run: Run, step: int) -> bool:
        result = {"value": run.values[step], "training_iteration": step}
        decision = self.scheduler.on_trial_result(None, run.handle, result)
        if decision == "STOP":
            self.scheduler.on_trial_complete(None, run.handle, result)
            self.searcher.on_trial_complete(run.handle.trial_id, result)
            return True
        self.searcher.on_trial_result(run.handle.trial_id, result)
        return False

    def pick(self) -> Run | None:
        return max((run for run in self.runs if run.values), key=lambda run: run.values[max(run.values)], default=None)
