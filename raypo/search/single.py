"""Training one configuration without a search: the same bench, in this very process.

A run goes by what it is made of, and so does the name of its folder: the same one again goes on from its checkpoint or
has its result, and another one finds nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raypo.artifacts import hash_of
from raypo.errors import StorageError, StudyError
from raypo.search.bench import TrialBench
from raypo.search.contents import Contents, forget
from raypo.search.folders import (
    MODEL,
    artifact_store,
    evaluation_file,
    location_of,
    run_file,
    trial_folder,
    write_json,
)
from raypo.search.jobs import Job, Outcome
from raypo.search.judging import trained_reward_model
from raypo.search.materials import Materials
from raypo.search.preflight import check, check_here
from raypo.search.remote import WorkingCopy
from raypo.spaces import Space
from raypo.study import Study
from raypo.training import comm

REWARD_MODEL = "reward_model"
ELSEWHERE = ("name", "storage", "ledger", "tracking")
"""Sections of a study that say where a run is kept and shown, and nothing of what comes of it."""


def train(study: Study, label: str, name: str, say: Callable[[str], None]) -> tuple[Outcome, Path]:
    """Train and evaluate one configuration; (what came of it, folder of the model).

    Raises:
        StudyError: the label is unknown, one of its values is still an axis, or the data is none for it.
        StorageError: the name is a search's.
    """
    point = point_of(study, label)
    location = location_of(study.storage, name)
    if name in WorkingCopy(location).neighbours():
        raise StorageError(f"--name {name}: there is a search of that name in {study.storage}; give another name")
    alone = study.model_copy(update={"methods": {label: study.methods[label]}})
    check(alone, say)
    check_here(alone)
    bench = TrialBench(alone.written(), name, location, study.allow_code)
    forget(bench.copy)  # the folder holds runs of any data
    pulse = _Telling(say)
    try:
        bench.run(Job("prepare", "prepare", {}, 0, 1.0, kind="prepare"), pulse)
        trial = _placed(bench, label, say)
        outcome = bench.run(Job(trial, label, point, study.search.seed, 1.0), pulse)
    finally:
        bench.close()
    model = trial_folder(bench.folder, trial) / "model"
    bench.copy.pull_folder(model, MODEL)  # in an object store it is there alone
    return outcome, model


def train_reward_model(study: Study, say: Callable[[str], None]) -> Path:
    """Train the study's `bradley_terry` judge and nothing else; its folder."""
    if study.objective.judge.kind != "bradley_terry":
        kind = study.objective.judge.kind
        raise StudyError(f"objective.judge.kind: got {kind!r}; a reward model is trained for kind bradley_terry")
    materials = Materials(study, artifact_store(study.storage), say)
    return trained_reward_model(materials, str(comm.device()))


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


def made_of(study: Study, contents: Contents) -> dict[str, Any]:
    """What the result of a study's only run follows from, whatever the paths in it say."""
    told = {section: value for section, value in study.written().items() if section not in ELSEWHERE}
    return {"study": told, "contents": contents}


def as_json(outcome: Outcome, model: Path) -> dict[str, Any]:
    """What `raypo train --json` prints."""
    return {**asdict(outcome), "model": str(model)}


def _placed(bench: TrialBench, label: str, say: Callable[[str], None]) -> str:
    """The name of the bench's only run, with what it is made of written in its folder."""
    run = made_of(bench.study, bench.contents)
    trial = f"{label}-{hash_of(run)[:8]}-0000"
    written, record = run_file(bench.folder, trial), evaluation_file(bench.folder, trial, 1.0)
    bench.copy.pull(record)
    if record.exists():
        say(f"{trial}: is trained and judged already, and this is what came of it; another --name does it anew")
    write_json(written, run)
    bench.copy.push(written)
    return trial


def _key(study: Study, label: str, name: str) -> str:
    entry = study.methods[label]
    return f"methods.{label}.{name}" if name in entry.hyperparameters or name in entry.training else f"training.{name}"


class _Telling:
    """Says each new stage once, and training now and then."""

    cancelled = False

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._told, self._tenth = say, "", -1

    def ours(self) -> bool:
        return True

    def __call__(self, fraction: float, stage: str, loss: float | None = None, saved: float = 0.0) -> None:  # noqa: ARG002
        tenth = int(fraction * 10) if stage == "training" else -1
        if stage != self._told or tenth != self._tenth:
            self._told, self._tenth = stage, tenth
            self._say(f"{stage} {fraction:.0%}, loss {loss:.4f}" if loss is not None else stage)
