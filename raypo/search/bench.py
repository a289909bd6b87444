"""What a slot does with a job: train a part of the schedule, evaluate, leave a record that is never made twice."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from raypo.errors import Diverged, JudgeError
from raypo.evaluation.benchmarks import run_benchmarks
from raypo.evaluation.goals import value_of
from raypo.evaluation.judges import Judge
from raypo.search import checkpoints
from raypo.search.contents import Contents, check_unchanged, contents_of
from raypo.search.evaluating import Evaluator
from raypo.search.exporting import model_of
from raypo.search.folders import (
    MODEL,
    READ,
    artifact_store,
    evaluation_file,
    origins_file,
    read_json,
    trial_folder,
    write_json,
)
from raypo.search.heldout import check_heldout, heldout_figures
from raypo.search.inputs import trial_inputs
from raypo.search.jobs import Job, Outcome
from raypo.search.judging import make_judge
from raypo.search.materials import Materials
from raypo.search.origins import origins
from raypo.search.points import first_point
from raypo.search.remote import WorkingCopy
from raypo.search.together import all_cores, led
from raypo.search.trialing import Pulses, Segment, Stopped, check_ours, run_of
from raypo.spaces import Value
from raypo.study import build
from raypo.training.settings import EngineSetup, Lora
from raypo.training.trainer import Trainer

Pulse = Callable[..., None]


class TrialBench:
    """The warm state of a slot: materials, trainer, judge, opponent. Every rank has one."""

    def __init__(self, study: dict[str, Any], search: str, folder: str, allow_code: bool) -> None:
        self.study = build(study, search, allow_code=allow_code)
        self.copy = WorkingCopy(folder, of="slots")
        self.folder = self.copy.path
        self._pulse: Pulse = lambda *_: None
        self._trainer: Trainer | None = None
        self.materials = Materials(self.study, artifact_store(self.copy.storage), self._say)
        self.evaluator = Evaluator(self.materials, lambda: self.judge, self.copy)

    def run(self, job: Job, pulse: Pulses) -> Outcome:
        """Do one job; every rank returns, rank 0's outcome counts."""
        self._pulse = pulse
        _ = self.contents
        if job.kind == "prepare":
            return self._prepare(job)
        if job.kind == "benchmark":
            return self._benchmark(job)
        record = evaluation_file(self.folder, job.trial, job.until)
        done = led(lambda: self._recorded(record))
        if done is not None:
            return Outcome(**done)
        outcome = self._segment(job, pulse)
        check_ours(pulse)
        led(lambda: self._record(record, outcome))
        return outcome

    def close(self) -> None:
        if self._trainer is not None:
            self._trainer.close()
            self._trainer = None

    def _recorded(self, record: Path) -> Any | None:
        self.copy.pull(record)
        found = read_json(record)
        if found is not None:
            self._tidy(Outcome(**found))  # a crash may have come between
        return found

    def _record(self, record: Path, outcome: Outcome) -> None:
        """Leave the record of an evaluation, after everything else that there is of it."""
        folder = trial_folder(self.folder, outcome.trial)
        self.copy.push(*(folder / name for name in READ))
        if outcome.state in ("running", "finished"):
            write_json(record, vars(outcome))
            self.copy.push(record)
        self._tidy(outcome)

    def _tidy(self, outcome: Outcome) -> None:
        """Remove the checkpoints of a trial that is recorded as finished, which has its model."""
        if outcome.state == "finished":
            checkpoints.forget(self.copy, trial_folder(self.folder, outcome.trial) / "checkpoints")

    @cached_property
    def contents(self) -> Contents:
        """What the study's sources hold; raises Hindrance where that is not what earlier trials were trained on."""
        self._say("loading the model and the data")
        _ = self.materials.base
        return led(lambda: check_unchanged(self.copy, contents_of(self.materials)))

    # Preparation ----------------------------------------------------------------------------------------------------

    def _prepare(self, job: Job) -> Outcome:
        """Everything that all trials share, in the order in which it is needed."""
        began = time.monotonic()
        _ = self.evaluator.sampling  # a model without room for prompts is told as early
        check_heldout(self.materials)
        _ = self.materials.start
        for label, entry in self.study.methods.items():
            point = self.study.fixed(label)
            if not any(name.startswith("data.") for name in self.study.space(label)):
                trial_inputs(self.materials, self._trainer_for(point), entry, first_point(self.study.axes(label)))
        trainer = self._trainer_for({})
        led(self._make_judge)
        trainer.rewind()
        self.evaluator.opponent(trainer, confirm=False)
        if self.study.confirm.top:
            self.evaluator.opponent(trainer, confirm=True)
        notes = led(self._told)
        return Outcome(job.trial, "finished", 1.0, evaluation={"notes": notes}, cost_s=time.monotonic() - began)

    def _make_judge(self) -> None:
        self._say("making the judge ready")
        with all_cores():
            _ = self.judge

    def _told(self) -> list[str]:
        """Write down what the search's models come from; what a person is told of the data."""
        write_json(origins_file(self.folder), origins(self.materials, self.contents))
        self.copy.push(origins_file(self.folder))
        return [*self.materials.notes(), *self.evaluator.notes()]

    @cached_property
    def judge(self) -> Judge:
        device = self._trainer.engine.device if self._trainer is not None else "cpu"
        return make_judge(self.materials, str(device), self.folder)

    # Finals ---------------------------------------------------------------------------------------------------------

    def _benchmark(self, job: Job) -> Outcome:
        """The study's benchmarks of a trained model, on rank 0's device."""
        wanted = self.study.benchmarks
        assert wanted is not None, "the study names the benchmarks that a job is for"
        began, folder = time.monotonic(), trial_folder(self.folder, job.trial)
        device = str(self._trainer_for(job.point).engine.device)
        self._say("benchmarks")

        def measure() -> list[dict[str, Any]]:
            trust = self.study.model.trust_remote_code
            model = model_of(self.copy, job.trial)
            found = run_benchmarks(model, wanted.tasks, limit=wanted.limit, device=device, trust_remote_code=trust)
            write_json(folder / "benchmarks.json", [asdict(score) for score in found])
            self.copy.push(folder / "benchmarks.json")
            self.copy.release(model)
            return [asdict(score) for score in found]

        scores = led(measure)
        cost = (time.monotonic() - began) * self.study.resources.workers
        return Outcome(job.trial, "finished", 1.0, evaluation={"scores": scores}, cost_s=cost)

    # Trials ---------------------------------------------------------------------------------------------------------

    def _segment(self, job: Job, pulse: Pulses) -> Outcome:
        """Train to the job's fraction and evaluate there."""
        began = time.monotonic()
        segment = self._begin(job, pulse)
        figures: dict[str, Any] = {}
        state, reason = "finished" if math.isclose(job.until, 1) else "running", None
        try:
            segment.run()
            pulse(job.until, "evaluating", saved=segment.saved)
            figures, reason = self._evaluate(job, segment)
            if state == "finished" and reason is None:
                self._keep_model(job, segment)
        except Stopped:
            state, reason = "stopped", "stopped by command"
        except Diverged as error:
            reason = str(error)
        if reason and state != "stopped":
            state = "diverged"
        return Outcome(
            trial=job.trial,
            state=state,  # type: ignore[arg-type]
            fraction=segment.trainer.fraction if state == "stopped" else job.until,
            step=segment.trainer.step,
            evaluation=figures,
            cost_s=(time.monotonic() - began) * self.study.resources.workers,
            checkpoint=str(segment.kept.relative_to(self.folder)) if segment.kept else None,
            reason=reason,
        )

    def _begin(self, job: Job, pulse: Pulses) -> Segment:
        """The trainer at the start of the job's run; the segment takes it on from the trial's newest checkpoint."""
        entry = self.study.methods[job.label]
        trainer = self._trainer_for(job.point)
        inputs = trial_inputs(self.materials, trainer, entry, job.point)
        trainer.begin(
            run_of(entry.method, entry.reference, job.point, job.seed),
            inputs.tokens,
            inputs.frozen,
            allow_code=self.study.allow_code,
        )
        return Segment(trainer, job, self.copy, self.study.training.checkpoint_every_s, pulse)

    def _evaluate(self, job: Job, segment: Segment) -> tuple[dict[str, Any], str | None]:
        figures, reason = self.evaluator.evaluate(segment.trainer, job)
        figures |= heldout_figures(self.materials, segment.trainer, job)
        if reason is None:
            figures |= self._objectives(figures)
        return figures, reason

    def _objectives(self, figures: Mapping[str, Any]) -> dict[str, Any]:
        """What the sampler is told of an evaluation: one value, or one for each of several goals."""
        wanted = self.study.objective
        goals = wanted.pareto or (wanted.metric,)
        values = [value_of(figures, goal) for goal in goals]
        for goal, value in zip(goals, values, strict=True):
            if value is None:
                raise JudgeError(f"objective: this evaluation has no {goal}; it has {', '.join(sorted(figures))}")
        return {"objective": values[0], **({"objectives": values} if wanted.pareto else {})}

    def _keep_model(self, job: Job, segment: Segment) -> None:
        """A fully trained trial keeps its model and no optimizer state."""
        model = trial_folder(self.folder, job.trial) / "model"
        if not job.confirm:
            checkpoints.publish(model, segment.trainer.export)
            led(lambda: self.copy.push_folder(model, MODEL))
            self.copy.release(model)  # whoever drops a loser's model from the mirror does not reach this machine
            segment.kept = model

    def _trainer_for(self, point: Mapping[str, Value]) -> Trainer:
        """The warm trainer; another one only where the engine has to differ."""
        model, resources, training = self.study.model, self.study.resources, self.study.training
        setup = EngineSetup(
            model_path=str(self.materials.start),
            dtype=model.dtype,
            zero_stage=resources.zero_stage,
            optimizer=str(point.get("optimizer", "adamw")),  # type: ignore[arg-type]
            micro_batch_size=training.micro_batch_size,
            lora=Lora(**model.lora.model_dump()) if model.lora else None,
            gradient_checkpointing=model.gradient_checkpointing,
            offload=resources.offload,
            trust_remote_code=model.trust_remote_code,
        )
        if self._trainer is None or self._trainer.closed or self._trainer.setup != setup:
            self.close()
            self._trainer = Trainer(setup)
        return self._trainer

    def _say(self, text: str) -> None:
        self._pulse(0.0, text)
