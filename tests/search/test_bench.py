"""A slot keeps one engine warm, and never two, and no checkpoint of a trial that has its model."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest
from small_bench import Pulse, job_of, open_bench, small_study

from raypo.search import bench as module
from raypo.training.settings import EngineSetup
from raypo.training.trainer import Trainer


def test_a_trainer_is_gone_before_another_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = open_bench(small_study(tmp_path), tmp_path / "small")
    first = bench._trainer_for({})
    assert bench._trainer_for({}) is first
    policy, found = weakref.ref(first.engine.policy), []

    def looking(setup: EngineSetup) -> Trainer:
        found.append((setup.optimizer, policy() is None))
        if len(found) == 1:
            raise MemoryError
        return Trainer(setup)

    monkeypatch.setattr(module, "Trainer", looking)
    with pytest.raises(MemoryError):
        bench._trainer_for({"optimizer": "rmsprop"})
    assert not bench._trainer_for({}).closed, "what was closed for one that could not be made is not taken for warm"
    assert found == [("rmsprop", True), ("adamw", True)]
    bench.close()


def test_the_checkpoints_of_a_finished_trial_go_though_a_crash_came_between(tmp_path: Path) -> None:
    study = small_study(tmp_path)
    bench, job = open_bench(study, tmp_path / "small"), job_of(study, "dpo-0000")
    first = bench.run(job, Pulse())
    left = tmp_path / "small" / "trials" / "dpo-0000" / "checkpoints"
    (left / "step-00000001").mkdir(parents=True)
    assert bench.run(job, Pulse()) == first
    bench.close()
    assert not left.exists()
