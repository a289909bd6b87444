"""Tune under a conductor of many trials: it runs all, keeps none that has ended, and hides nothing that goes wrong."""

from __future__ import annotations

import dataclasses
import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.tune.experiment import Trial

from raypo.errors import StorageError
from raypo.search import tune
from raypo.search.jobs import Job, Outcome

TRIALS, CONCURRENT = 12, 2
AT = (0.5, 1.0)


@ray.remote(num_cpus=0)
class Pool:
    """Does every job at once."""

    def submit(self, job: Job) -> Outcome:
        state = "finished" if job.until == 1 else "running"
        return Outcome(job.trial, state, job.until, 1, {"objective": 0.5}, 0.1)


@pytest.fixture(scope="module", autouse=True)
def pool(local_ray: None) -> Iterator[None]:  # noqa: ARG001
    pool = Pool.options(name="counted", namespace="counted").remote()
    ray.get(pool.__ray_ready__.remote())
    yield
    ray.kill(pool)


class Counting:
    """A conductor that prunes every third trial and counts the trials that are in memory."""

    def __init__(self) -> None:
        self.asked, self.ended, self.in_memory = 0, list[tuple[str, bool]](), list[int]()
        self.deserted = False

    def next(self, trial_id: str) -> dict[str, Any] | str | None:  # noqa: ARG002
        if self.asked == TRIALS:
            return tune.FINISHED
        self.asked += 1
        jobs = [dataclasses.asdict(Job(f"dpo-{self.asked:04d}", "dpo", {}, 0, until)) for until in AT]
        return {"pool": "counted", "namespace": "counted", "jobs": jobs, "rung": 0}

    def heard(self, trial_id: str, rung: int, outcome: Outcome) -> bool:  # noqa: ARG002
        return not (rung == 0 and int(outcome.trial[-4:]) % 3 == 0)

    def left(self, trial_id: str, *, error: bool) -> None:
        self.ended.append((trial_id, error))
        gc.collect()
        self.in_memory.append(sum(isinstance(thing, Trial) for thing in gc.get_objects()))


def test_trials_that_have_ended_leave_the_memory(tmp_path: Path) -> None:
    conductor = Counting()
    tune.run(conductor, CONCURRENT, str(tmp_path))
    assert len(dict(conductor.ended)) == TRIALS
    assert not any(error for _, error in conductor.ended)
    assert max(conductor.in_memory) <= 3 * CONCURRENT


class Failing(Counting):
    """A conductor whose ledger is away when it is asked a question."""

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question, self.failed = question, 0

    def next(self, trial_id: str) -> dict[str, Any] | str | None:
        self._fail("next")
        return super().next(trial_id)

    def heard(self, trial_id: str, rung: int, outcome: Outcome) -> bool:
        self._fail(outcome.state)
        return super().heard(trial_id, rung, outcome)

    def left(self, trial_id: str, *, error: bool) -> None:
        self._fail("left")
        super().left(trial_id, error=error)

    def _fail(self, question: str) -> None:
        if question == self._question:
            self.failed += 1
            raise StorageError("the ledger does not answer")


@pytest.mark.parametrize("question", ["next", "running", "finished", "left"])
def test_a_ledger_that_is_away_ends_the_trials_with_its_own_words(tmp_path: Path, question: str) -> None:
    conductor = Failing(question)
    with pytest.raises(StorageError, match=r"^the ledger does not answer$"):
        tune.run(conductor, CONCURRENT, str(tmp_path))
    assert conductor.failed == 1, "it is asked no more"


class Deserted(Counting):
    """A conductor of a search whose pool is gone; once trials wait for it in vain, so are its slots."""

    def next(self, trial_id: str) -> dict[str, Any] | str | None:
        config = super().next(trial_id)
        assert isinstance(config, dict)
        threading.Timer(1, self._desert).start()
        return {**config, "pool": "gone"}

    def _desert(self) -> None:
        self.deserted = True


def test_trials_that_nobody_is_left_for_end_with_the_search(tmp_path: Path) -> None:
    running = threading.Thread(target=tune.run, args=(Deserted(), CONCURRENT, str(tmp_path)), daemon=True)
    running.start()
    running.join(60)
    assert not running.is_alive()
