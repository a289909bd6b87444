"""Fail before the GPU: whatever can be known to be wrong is said before anything starts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from optuna.study import StudyDirection

from raypo.data.records import Record
from raypo.data.specs import parse_transforms
from raypo.errors import DataError, StudyError, nearest
from raypo.methods import check_corners
from raypo.search.drawing import rules_of, sampler_of
from raypo.search.fitting import ROWS, first_prompts, first_records, framed_apart, misfits, remarks
from raypo.search.judging import unreachable, unready
from raypo.search.measuring import unmeasurable
from raypo.search.opponents import OPPONENTS
from raypo.search.pruners import make_pruner
from raypo.search.pruning import pruner_name
from raypo.search.sources import read_judge_rows
from raypo.search.targets import targets
from raypo.spaces import Space, Value, corners
from raypo.study import Entry, Study
from raypo.training.settings import EngineSetup

CORNERS = 256
"""Corners tried per method; a space of more axes than that covers is tried at its first ones."""


def check(study: Study, say: Callable[[str], None]) -> None:
    """Look for files that are not there, data that a method cannot use, and losses that break.

    Every method is evaluated with its gradient at the corners of its space.

    Raises:
        StudyError: one line a problem.
    """
    problems = [*_missing_files(study), *_no_model(study), *_wrong_transforms(study), *unmeasurable(study)]
    problems += [*unready(study), *_no_engine(study)]
    variants: list[list[Record]] = [[]]
    if not problems:
        try:
            variants = first_records(study)
        except DataError as error:
            problems.append(f"data: {error}")
        try:
            problems += framed_apart(study, variants[0], first_prompts(study))
        except DataError as error:
            problems.append(f"objective.prompts: {error}")
        problems += _unreadable_judge(study)
    problems += misfits(study, variants)
    problems += _no_pruner(study)
    for label, entry in study.methods.items():
        try:
            sampler_of(study, label)
            points = [_hyperparameters(entry, point) for point in _points(study, label)]
        except StudyError as error:
            problems.append(f"methods.{label}: {error}")
            continue
        problems += [f"methods.{label}: {problem}" for problem in check_corners(entry.method, points)]
        problems += [f"methods.{label}: {problem}" for problem in _beyond_the_engine(study, entry, points)]
        problems += [f"methods.{label}: {problem}" for problem in _no_point(study, label)]
    if problems:
        raise StudyError("\n".join(problems))
    for remark in remarks(study, variants[0]):
        say(remark)
    if study.search.sampler == "grid":
        cells = ", ".join(f"{label} {count}" for label, count in targets(study).items())
        say(f"search.trials: a grid has as many trials as cells, whatever search.trials says: {cells}")
    say(f"checked: {', '.join(study.methods)} and their gradients are finite at every corner of their spaces")


def check_here(study: Study) -> None:
    """Look for what this very machine lacks to run a study's trials.

    Raises:
        StudyError: one line a problem.
    """
    problems = list(unreachable(study))
    if problems:
        raise StudyError("\n".join(problems))


def _points(study: Study, label: str) -> Iterator[Mapping[str, Value]]:
    entry = study.methods[label]
    rules = rules_of(study, label)
    searched = {
        name: v for name, v in study.axes(label).items() if name in entry.hyperparameters or isinstance(v, Space)
    }
    allowed = (rules.active(point) for point in corners(searched) if rules.allows(point))
    return itertools.islice(allowed, CORNERS)


def _hyperparameters(entry: Entry, point: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in point.items() if name in entry.hyperparameters}


def _beyond_the_engine(study: Study, entry: Entry, points: list[dict[str, Any]]) -> Iterator[str]:
    """What a method asks for, at some point of its space, that the study's engine cannot give."""
    needs = {need for point in points for need in entry.method.needs_for(**point)}
    if "token_kl" in needs and study.resources.zero_stage == 3:
        yield "exact KL needs whole LM heads, got resources.zero_stage 3; use 0, 1 or 2, or another kl_mode"
    if "moving_reference" in needs and study.model.lora is not None:
        yield "a moving reference cannot be mixed from adapters; train without model.lora, or leave the method out"


def _no_engine(study: Study) -> Iterator[str]:
    """What the engine refuses, of every optimizer that some trial or the starting model is trained with."""
    stage, sft = study.resources.zero_stage, study.model.sft
    setups: dict[str, dict[str, Any]] = {"resources.": {"offload": study.resources.offload}}
    setups |= {"model.sft.": {"optimizer": sft.optimizer}} if sft is not None else {}
    for label in study.methods:
        named = study.axes(label)["optimizer"]
        for value in named.values if isinstance(named, Space) else (named,):
            setups[f"methods.{label}."] = {"optimizer": value}
            if value == "adafactor":
                break
    for where, settings in setups.items():
        try:
            EngineSetup("", zero_stage=stage, **settings)
        except ValueError as error:
            yield f"{where}{str(error).removeprefix('training.')}"


def _no_point(study: Study, label: str) -> Iterator[str]:
    """Why the constraints leave a method no first trial."""
    try:
        sampler_of(study, label).suggest(0, [], label, [StudyDirection.MAXIMIZE])
    except StudyError as error:
        yield str(error)


def _unreadable_judge(study: Study) -> Iterator[str]:
    if study.objective.judge.kind == "bradley_terry":
        try:
            read_judge_rows(study, ROWS)
        except DataError as error:
            yield str(error)


def _no_pruner(study: Study) -> Iterator[str]:
    try:
        make_pruner(pruner_name(study), study.objective.at, scores=lambda *_: {})
    except StudyError as error:
        yield str(error)


def _no_model(study: Study) -> Iterator[str]:
    for where, path in (("model.path", study.model.path), ("objective.judge.path", study.objective.judge.path)):
        if path is not None and Path(path).is_dir() and not (Path(path) / "config.json").is_file():
            yield f"{where}: {path} is no model folder, it has no config.json; give a Hugging Face folder or a hub id"


def _wrong_transforms(study: Study) -> Iterator[str]:
    """Those of prompts and judge, which are read long after the data's, and every value of the data's axes."""
    objective, confirm = study.objective, study.confirm.prompts
    lists = {"objective.prompts": objective.prompts.transforms, "objective.judge": objective.judge.transforms}
    lists |= {"confirm.prompts": confirm.transforms} if confirm is not None else {}
    axes = [(name, v) for given in study.data.transforms for name, v in given.items() if isinstance(v, Space)]
    lists |= {f"data.{name}={value}": ({name: value},) for name, axis in axes for value in axis.values}
    for where, transforms in lists.items():
        try:
            parse_transforms(transforms, f"{where}.transforms")
        except StudyError as error:
            yield from str(error).splitlines()


def _missing_files(study: Study) -> Iterator[str]:
    judge = study.objective.judge
    named = {
        "data.source": study.data.source,
        "objective.prompts.source": study.objective.prompts.source,
        "objective.judge.source": judge.source,
        "objective.judge.path": judge.path,
        "objective.judge.replay": judge.replay,
        "model.path": study.model.path,
        "model.sft.source": study.model.sft.source if study.model.sft else None,
        "data.encoder": study.data.encoder,
        "model.build.text": study.model.build.text if study.model.build else None,
    }
    for where, value in named.items():
        file = where == "objective.judge.replay" or (value is not None and _looks_local(value))
        if value is not None and file and not Path(value).expanduser().exists():
            yield f"{where}: no such file or folder, got {value!r}; paths are relative to {Path.cwd()}"
    opponent = study.objective.opponent
    if opponent not in OPPONENTS and not Path(opponent).expanduser().exists():
        yield (
            f"objective.opponent: neither {' nor '.join(OPPONENTS)} nor a file, got {opponent!r}; paths are relative "
            f"to {Path.cwd()}{nearest(opponent, OPPONENTS)}"
        )


def _looks_local(value: str) -> bool:
    """A path of this machine, rather than a hub id (`owner/name`), a word or an import path."""
    return value.startswith((".", "/", "~")) or Path(value).suffix in (
        ".gz",
        ".json",
        ".jsonl",
        ".parquet",
        ".csv",
        ".txt",
    )
