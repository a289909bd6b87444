"""Training one configuration without a search: the same bench, in this very process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raypo.errors import StudyError
from raypo.search.bench import TrialBench
from raypo.search.folders import artifact_store, location_of
from raypo.search.jobs import Job, Outcome
from raypo.search.judging import trained_reward_model
from raypo.search.materials import Materials
from raypo.search.preflight import check
from raypo.spaces import Space
from raypo.study import Study

REWARD_MODEL = "reward_model"


def train(study: Study, label: str, name: str, say: Callable[[str], None]) -> tuple[Outcome, Path]:
    """Train and evaluate one configuration; (what came of it, folder of the model).

    Raises:
        StudyError: the label is unknown, one of its values is still an axis, or the data is none for it.
    """
    point = point_of(study, label)
    check(study.model_copy(update={"methods": {label: study.methods[label]}}), say)
    bench = TrialBench(study.written(), name, location_of(study.storage, name), study.allow_code)
    trial = f"{label}-0000"
    pulse = _Telling(say)
    try:
        bench.run(Job("prepare", "prepare", {}, 0, 1.0, kind="prepare"), pulse)
        outcome = bench.run(Job(trial, label, point, study.search.seed, 1.0), pulse)
    finally:
        bench.close()
    return outcome, bench.folder / "trials" / trial / "model"


def train_reward_model(study: Study, say: Callable[[str], None]) -> Path:
    """Train the study's `bradley_terry` judge and nothing else; its folder."""
    if study.objective.judge.kind != "bradley_terry":
        kind = study.objective.judge.kind
        raise StudyError(f"objective.judge.kind: got {kind!r}; a reward model is trained for kind bradley_terry")
    materials = Materials(study, artifact_store(study.storage), say)
    return trained_reward_model(materials, "cpu")


def point_of(study: Study, label: str) -> dict[str, Any]:
    """The values of a method's only configuration."""
    if label not in study.methods:
        raise StudyError(f"--method {label}: the study has {', '.join(study.methods)}, or {REWARD_MODEL}")
    axes: Mapping[str, Any] = study.axes(label)
    open_ = [name for name, value in axes.items() if isinstance(value, Space)]
    if open_:
        sets = " ".join(f"--set {_key(study, label, name)}=VALUE" for name in open_)
        raise StudyError(f"methods.{label}: {', '.join(open_)} are axes; give each one value: {sets}")
    return dict(axes)


def as_json(outcome: Outcome, model: Path) -> dict[str, Any]:
    """What `raypo train --json` prints."""
    return {**asdict(outcome), "model": str(model)}


def _key(study: Study, label: str, name: str) -> str:
    entry = study.methods[label]
    return f"methods.{label}.{name}" if name in entry.hyperparameters or name in entry.training else f"training.{name}"


class _Telling:
    """Says each new stage once, and training now and then."""

    cancelled = False

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._told, self._tenth = say, "", -1

    def __call__(self, fraction: float, stage: str, loss: float | None = None) -> None:
        tenth = int(fraction * 10) if stage == "training" else -1
        if stage != self._told or tenth != self._tenth:
            self._told, self._tenth = stage, tenth
            self._say(f"{stage} {fraction:.0%}, loss {loss:.4f}" if loss is not None else stage)
