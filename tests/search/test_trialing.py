"""A trial's step log holds every step it took, however it ended; it ends soon when it is told to."""

from __future__ import annotations

import errno
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from small_bench import Pulse, job_of, open_bench, small_study

from raypo.search import checkpoints, trialing
from raypo.search.folders import location_of
from raypo.search.trialing import GivenUp, _forget_after

LONG = {"steps": 24}


def steps(log: Path) -> list[int]:
    return [json.loads(line)["step"] for line in log.read_text().splitlines()]


class Breaks(Pulse):
    """Raises after the fifth of 24 steps."""

    def __call__(self, fraction: float, stage: str, loss: float | None = None, saved: float = 0.0) -> None:
        super().__call__(fraction, stage, loss, saved)
        if stage == "training" and round(fraction * 24) == 5:
            raise RuntimeError("the device is gone")


def test_the_steps_before_a_divergence_are_logged(tmp_path: Path) -> None:
    study = small_study(tmp_path, training={**LONG, "lr": 1e30})
    bench = open_bench(study, tmp_path / "small")
    outcome = bench.run(job_of(study, "dpo-0000"), Pulse())
    bench.close()
    assert outcome.state == "diverged"
    told = re.search(r"at step (\d+) of 24", str(outcome.reason))
    assert told is not None
    taken = steps(tmp_path / "small" / "trials" / "dpo-0000" / "metrics.jsonl")
    assert taken == list(range(1, int(told[1])))
    assert taken, "it diverges after its first step"


def test_the_steps_up_to_an_error_are_logged_once(tmp_path: Path) -> None:
    study = small_study(tmp_path, training=LONG)
    bench = open_bench(study, tmp_path / "small")
    log = tmp_path / "small" / "trials" / "dpo-0000" / "metrics.jsonl"
    with pytest.raises(RuntimeError, match="the device is gone"):
        bench.run(job_of(study, "dpo-0000"), Breaks())
    assert steps(log) == [1, 2, 3, 4, 5]
    assert bench.run(job_of(study, "dpo-0000"), Pulse()).state == "finished"
    bench.close()
    assert steps(log) == list(range(1, 25))


class Elsewhere(Pulse):
    """The pool takes this machine for dead and gives the job to another one after the tenth of 24 steps."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.first, self.taken = first, 0

    def __call__(self, fraction: float, stage: str, loss: float | None = None, saved: float = 0.0) -> None:
        super().__call__(fraction, stage, loss, saved)
        self.taken = max(self.taken, round(fraction * 24))

    def ours(self) -> bool:
        return self.taken < self.first


@pytest.mark.parametrize(
    ("first", "due", "left"),
    [(10, True, ["step-00000009"]), (24, True, ["step-00000023"]), (24, False, [])],
    ids=["a checkpoint", "the last checkpoint", "the record"],
)
def test_a_machine_that_was_given_up_writes_nothing_more_of_the_trial(
    tmp_path: Path, first: int, due: bool, left: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raypo.search.trialing.Segment._due", lambda _: due)
    monkeypatch.setattr("raypo.search.trialing.LOOK_EVERY_S", 0)
    study = small_study(tmp_path, training=LONG)
    bench = open_bench(study, tmp_path / "small")
    with pytest.raises(GivenUp):
        bench.run(job_of(study, "dpo-0000"), Elsewhere(first))
    bench.close()
    folder = tmp_path / "small" / "trials" / "dpo-0000"
    assert sorted(path.name for path in (folder / "checkpoints").glob("step-*")) == left
    assert not (folder / "evaluations").exists()


class Stopping(Pulse):
    """Stops a trial, which then checkpoints, after some steps."""

    def __call__(self, fraction: float, stage: str, loss: float | None = None, saved: float = 0.0) -> None:
        super().__call__(fraction, stage, loss, saved)
        self.cancelled = stage == "training"


def test_a_process_killed_behind_its_checkpoint_has_logged_the_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(folder: Path, step: int, save: Callable[[Path], None]) -> None:
        checkpoints.write(folder, step, save)
        raise KeyboardInterrupt

    study = small_study(tmp_path, training={"steps": 6})
    bench = open_bench(study, tmp_path / "small")
    with monkeypatch.context() as dying:
        dying.setattr(trialing, "checkpoints", SimpleNamespace(newest=checkpoints.newest, write=killed))
        dying.setattr(trialing.Segment, "_rescue_log", lambda _: None)  # which a killed process does not come to
        with pytest.raises(KeyboardInterrupt):
            bench.run(job_of(study, "dpo-0000"), Stopping())
    assert bench.run(job_of(study, "dpo-0000"), Pulse()).state == "finished"
    bench.close()
    assert steps(tmp_path / "small" / "trials" / "dpo-0000" / "metrics.jsonl") == [1, 2, 3, 4, 5, 6]


def test_a_log_outlives_what_interrupts_it_where_a_trial_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "metrics.jsonl"
    whole = "".join(f'{{"step": {step}}}\n' for step in range(1, 6))
    log.write_text(whole + '{"st')

    def torn(path: Path, *_: object, **__: object) -> None:
        path.open("w").close()
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(Path, "write_text", torn)
        with pytest.raises(OSError, match="No space left"):
            _forget_after(log, 3)
    assert log.read_text() == whole + '{"st'
    _forget_after(log, 3)
    assert steps(log) == [1, 2, 3]


def test_the_log_of_a_failed_trial_reaches_the_object_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYPO_CACHE", str(tmp_path / "cache"))
    bucket = f"file://{tmp_path}/bucket"
    study = small_study(bucket, training=LONG)  # type: ignore[arg-type]
    bench = open_bench(study, location_of(bucket, "small"))  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="the device is gone"):
        bench.run(job_of(study, "dpo-0000"), Breaks())
    bench.close()
    assert steps(tmp_path / "bucket" / "small" / "trials" / "dpo-0000" / "metrics.jsonl") == [1, 2, 3, 4, 5]


class Cancelled(Pulse):
    """Says after the second step, whose steps take so long, that the trial shall stop."""

    def __init__(self, step_s: float) -> None:
        super().__init__()
        self.step_s = step_s

    def __call__(self, fraction: float, stage: str, loss: float | None = None, saved: float = 0.0) -> None:
        super().__call__(fraction, stage, loss, saved)
        if stage == "training":
            time.sleep(self.step_s)
            self.cancelled = round(fraction * 24) >= 2


@pytest.mark.parametrize(("step_s", "taken"), [(1.1, 2), (0.3, 4)])
def test_a_trial_that_is_told_to_stop_does_so_within_a_second_or_a_step(
    tmp_path: Path, step_s: float, taken: int
) -> None:
    study = small_study(tmp_path, training=LONG)
    bench = open_bench(study, tmp_path / "small")
    stopped = bench.run(job_of(study, "dpo-0000"), Cancelled(step_s))
    assert stopped.state == "stopped"
    assert 2 <= stopped.step <= taken
    assert bench.run(job_of(study, "dpo-0000"), Pulse()).state == "finished"
    undisturbed = bench.run(job_of(study, "dpo-0001"), Pulse())
    bench.close()
    assert undisturbed.state == "finished"
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / "small" / "trials" / name / "metrics.jsonl").open()]
        for name in ("dpo-0000", "dpo-0001")
    ]
    assert losses[0] == losses[1], "what is trained is the same, however it is divided"
