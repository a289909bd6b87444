"""Ray Tune executes and remembers nothing that we need: searcher, scheduler and trial are thin over the ledger."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from raypo.search.jobs import Job, Outcome

FINISHED = Searcher.FINISHED

T = TypeVar("T")


class Conductor(Protocol):
    """What the searcher and the scheduler ask: three plain questions.

    `deserted` says that no slot is left, so that what was asked of them is answered by nobody.
    """

    deserted: bool

    def next(self, trial_id: str) -> dict[str, Any] | str | None:
        """Configuration of the next trial; None for "not now", FINISHED for "never again"."""

    def heard(self, trial_id: str, rung: int, outcome: Outcome) -> bool:
        """Record an evaluation; False stops the trial."""

    def left(self, trial_id: str, *, error: bool) -> None:
        """A Tune trial has ended."""


class TrialProxy(tune.Trainable):
    """One light actor per running trial: it sends the trial's jobs to the pool, one evaluation a step.

    The parts of the schedule come first, then the same configuration with other seeds.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._pool = ray.get_actor(new_config["pool"], namespace=new_config["namespace"])
        self._jobs = [Job(**job) for job in new_config["jobs"]]
        self._rung: int = new_config["rung"]
        return True

    def step(self) -> dict[str, Any]:
        outcome: Any = ray.get(self._pool.submit.remote(self._jobs[self._rung]))
        rung, self._rung = self._rung, self._rung + 1
        goes_on = outcome.state in ("running", "finished") and self._rung < len(self._jobs)
        # As text, for Tune flattens mappings.
        return {"outcome": json.dumps(dataclasses.asdict(outcome)), "rung": rung, "done": not goes_on}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:  # noqa: ARG002
        return {}

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing to load: the trial's state is in its folder."""


class Asked:
    """A conductor that is asked no more once it has raised, `error`.

    Tune itself would make text of that, or try the trial again for ever.
    """

    def __init__(self, conductor: Conductor) -> None:
        self._conductor = conductor
        self.error: Exception | None = None

    def next(self, trial_id: str) -> dict[str, Any] | str | None:
        finished: dict[str, Any] | str | None = FINISHED
        return self._ask(lambda: self._conductor.next(trial_id), finished)

    def heard(self, trial_id: str, rung: int, outcome: Outcome) -> bool:
        return self._ask(lambda: self._conductor.heard(trial_id, rung, outcome), otherwise=False)

    def left(self, trial_id: str, *, error: bool) -> None:
        self._ask(lambda: self._conductor.left(trial_id, error=error), None)

    @property
    def over(self) -> bool:
        """Whether no trial goes on."""
        return self.error is not None or self._conductor.deserted

    def _ask(self, question: Callable[[], T], otherwise: T) -> T:
        if self.error is None:
            try:
                return question()
            except Exception as error:
                self.error = error
        return otherwise


class _Asking:
    """Tune pickles its searcher, scheduler and stopper; the conductor stays in this process, where the ledger is."""

    _conductor: Asked

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_conductor"}


class LedgerSearcher(_Asking, Searcher):
    """Hands Tune what the conductor wants run next, and tells it what ended."""

    def __init__(self, conductor: Asked) -> None:
        super().__init__(metric="outcome", mode="max")
        self._conductor = conductor

    def suggest(self, trial_id: str) -> Any:
        return self._conductor.next(trial_id)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self._conductor.left(trial_id, error=error or result is None)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the ledger is the memory."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the ledger is the memory."""


class LedgerScheduler(_Asking, FIFOScheduler):
    """Stops a trial when the ledger's pruner says so."""

    def __init__(self, conductor: Asked) -> None:
        super().__init__()
        self._conductor = conductor

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:  # noqa: ARG002
        keep = self._conductor.heard(trial.trial_id, result["rung"], _outcome(result))
        return TrialScheduler.CONTINUE if keep else TrialScheduler.STOP

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """The last result of a trial that ends by itself arrives here alone, one that it was stopped at again."""
        self._conductor.heard(trial.trial_id, result["rung"], _outcome(result))
        forget_ended(tune_controller)


class LedgerStopper(_Asking, Stopper):
    """Ends all trials at once when the conductor has raised, or nobody is left to do their jobs.

    Tune would wait for them, or try them again for ever.
    """

    def __init__(self, conductor: Asked) -> None:
        self._conductor = conductor

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
        return False

    def stop_all(self) -> bool:
        return self._conductor.over


class NoProgress(TrialProgressCallback):
    """In the place of Tune's own, which keeps all trials to print what is never shown."""

    def on_trial_result(self, *_: Any, **__: Any) -> None: ...
    def on_trial_error(self, *_: Any, **__: Any) -> None: ...
    def on_trial_complete(self, *_: Any, **__: Any) -> None: ...


def _outcome(result: dict[str, Any]) -> Outcome:
    return Outcome(**json.loads(result["outcome"]))


def forget_ended(controller: Any) -> None:
    """Have Tune's controller let go of the trials that have ended, 50 KiB each, for the ledger is the record.

    Tune has no call for it; these are all the places where it keeps them.
    """
    trials = controller.get_trials()
    ended = {trial for trial in trials if trial.is_finished()}
    trials[:] = [trial for trial in trials if trial not in ended]
    for kept in (controller._stopped_trials, controller._failed_trials, controller._trials_to_cache):
        kept -= ended
    for trial in ended:
        controller._trial_metadata.pop(trial.trial_id, None)


def run(conductor: Conductor, concurrent: int, folder: str) -> None:
    """Let Tune run trials until the conductor has no more; what the conductor raises comes out as it is."""
    asked = Asked(conductor)
    tuner = tune.Tuner(
        # Tune wants something reserved: a byte, for a thousandth of a CPU would keep a slot's worker from a whole one.
        tune.with_resources(TrialProxy, tune.PlacementGroupFactory([{"memory": 1}])),
        tune_config=tune.TuneConfig(
            search_alg=LedgerSearcher(asked),
            scheduler=LedgerScheduler(asked),
            num_samples=-1,
            max_concurrent_trials=concurrent,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=folder,
            verbose=0,
            stop=LedgerStopper(asked),
            callbacks=[NoProgress()],
            failure_config=tune.FailureConfig(max_failures=-1),
        ),
    )
    tuner.fit()
    if asked.error is not None:
        raise asked.error
