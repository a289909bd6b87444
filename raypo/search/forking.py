"""Forking: a new search from an old one, with what was changed, that keeps the finished trials that still hold.

A trial holds where the new study would train it to the same figures: same method and resolved point, same seed of the
search, same model, data and objective. How it was executed (slots, workers, tracking) and how points are chosen
(sampler, pruner, trials) make no difference to it, but that a method whose loss is defined on a micro-batch of all
workers needs the same size and workers. Its further seeds hold with it, and so do those of its confirmation while the
prompts of the confirmation are the same: what is missing of them is trained, and nothing twice.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raypo.search.contents import CONFIRMATION
from raypo.search.drawing import PRIOR, rules_of
from raypo.search.exporting import KEPT
from raypo.search.folders import MODEL, contents_file, evaluation_file, read_json, trial_folder, write_json
from raypo.search.ledger import Ledger
from raypo.search.points import priors_of
from raypo.search.ranking import ranked
from raypo.search.remote import WorkingCopy
from raypo.search.rows import Row, renamed
from raypo.search.searches import SearchFolder, create
from raypo.search.view import fits
from raypo.spaces import Space, Value
from raypo.study import Study, build
from raypo.study.loading import override
from raypo.study.objective import ASKING

_SECTIONS = ("model", "data", "objective")


@dataclass(frozen=True)
class Fork:
    """A new search with the names of the trials that it took over, and why the other finished ones do not hold."""

    search: SearchFolder
    study: Study
    taken: dict[str, str]
    """Name in the old search to name in the new one."""
    dropped: dict[str, str]
    modelless: list[str]
    """Those of its best whose models the old search had removed."""


def fork(
    old: SearchFolder, name: str, overrides: Sequence[str], look: Callable[[Study], None] = lambda _: None
) -> Fork:
    """Make a new search of the old one's study with `a.b=value` overrides, beside the old one unless they say where.

    `look` is shown the new study before anything of it is made, and may refuse it.

    Raises:
        StudyError: the changed study cannot be; StorageError: the name is taken.
    """
    before = old.study()
    content = {**before.written(), "storage": old.copy.storage}
    for text in overrides:
        override(content, text)
    content["name"] = name
    study = build(content, f"fork of {old.name}", allow_code=before.allow_code)
    look(study)
    search = create(study, name, forked_from=old.name)
    ledger, earlier = search.ledger, old.ledger
    taken, dropped, stored = {}, {}, old.copy.files(old.path / "trials")
    same = before.confirm.prompts == study.confirm.prompts
    for row in earlier.rows():
        if row.state != "finished":
            continue
        reason = why_not(before, study, row)
        if reason is not None:
            dropped[row.name] = reason
            continue
        point = _point(before, row)
        space = {axis: form.distribution() for axis, form in _active(study, row.label, point).items()}
        params = {axis: point[axis] for axis in space}
        taken[row.name] = now = ledger.next_name(row.label)
        own = (f"{row.name}/", f"{row.name}.")
        old.copy.pull(*(old.path / "trials" / f for f in stored if f.startswith(own) and "/model/" not in f))
        old.copy.pull_folder(trial_folder(old.path, row.name) / "model", MODEL)
        for suffix in ("", *_further_seeds(old.path, row.name, "rs" if same else "r")):
            _copy(old.path, search.copy, row.name, now, suffix)
        # Last, for a trial that the ledger knows is whole.
        kept = ledger.adopt(earlier, row, params, space, _source(earlier, study, row))
        if row.confirmation is not None and same and before.confirm.seeds == study.confirm.seeds:
            ledger.confirm(kept, renamed(row.confirmation, row.name, now))
    _copy_contents(old, search, same)
    search.push_journal()
    best = [row.name for label in study.methods for row in ranked(ledger.rows(label))[:KEPT]]
    modelless = [name for name in best if not (trial_folder(search.path, name) / "model" / MODEL).exists()]
    return Fork(search, study, taken, dropped, modelless)


def why_not(before: Study, after: Study, row: Row) -> str | None:
    """Why a finished trial says nothing about the new study; None where it holds."""
    if row.label not in after.methods:
        return "its method is gone"
    if before.methods[row.label].reference != after.methods[row.label].reference:
        return "its label names another method"
    old, new = _told(before), _told(after)
    point = _point(before, row)
    for section in _SECTIONS:
        for key in sorted(old[section].keys() | new[section].keys()):
            if key != "transforms" and old[section].get(key) != new[section].get(key):
                return f"{section}.{key} differs"
    if before.search.seed != after.search.seed:
        return "search.seed differs"
    if before.search.repeats != after.search.repeats:
        return "search.repeats differs"
    own = after.model.sft is not None and after.model.sft.source is None
    if own and before.fixed_transforms() != after.fixed_transforms():
        return "data.transforms differs for model.sft"
    return _point_differs(before, after, row.label, point) or _micro_batch_differs(before, after, row.label, point)


def _told(study: Study) -> dict[str, Any]:
    """A study as plain data, without what says only how its judge is asked."""
    written = study.written()
    for name in ASKING:
        del written["objective"]["judge"][name]
    return written


def _point_differs(before: Study, after: Study, label: str, point: dict[str, Value]) -> str | None:
    fixed, searched = after.fixed(label), _active(after, label, point)
    for name, value in fixed.items():
        if name not in point or point[name] != value:
            return f"{name} is {value!r} now, it was {point.get(name)!r}"
    for name, space in searched.items():
        if name not in point or not fits({name: point[name]}, {name: space.distribution()}):
            return f"{name}={point.get(name)!r} lies outside of {space.written()}"
    gone = sorted(point.keys() - fixed.keys() - searched.keys() - {n for n in point if n.startswith("data.")})
    if gone:
        return f"{gone[0]} is set no more, it was {point[gone[0]]!r}"
    try:
        same = before.data_transforms(point) == after.data_transforms(point)
    except KeyError:
        same = False
    return None if same else "data.transforms differs"


def _micro_batch_differs(before: Study, after: Study, label: str, point: dict[str, Value]) -> str | None:
    """Why a loss that is defined on a micro-batch over all workers is another one now."""
    method = before.methods[label].method
    if not method.of_a_micro_batch(**{name: point[name] for name in method.hyperparameters if name in point}):
        return None
    sizes = {
        "training.micro_batch_size": (before.training.micro_batch_size, after.training.micro_batch_size),
        "resources.workers": (before.resources.workers, after.resources.workers),
    }
    found = (
        f"{name} is {now} now, it was {was}, and the loss of {method.name} is defined on a micro-batch of all workers"
        for name, (was, now) in sizes.items()
        if was != now
    )
    return next(found, None)


def _active(study: Study, label: str, point: Mapping[str, Value]) -> dict[str, Space]:
    """The searched axes that apply to a point by the study's conditions; one that the point lacks stands for itself."""
    space = study.space(label)
    values = {name: point.get(name, axis.values[0]) for name, axis in space.items()}
    return {name: space[name] for name in rules_of(study, label).active(values)}


def _source(earlier: Ledger, study: Study, row: Row) -> str:
    """Where a trial comes from: a published point has its place in the new study, so that it is not tried again."""
    trial = earlier.frozen(row)
    while "replaces" in trial.user_attrs:
        trial = earlier.trial(row.label, trial.user_attrs["replaces"])
    if str(trial.user_attrs.get("source", "")).startswith(PRIOR):
        for index, prior in enumerate(priors_of(study, row.label)[0]):
            if all(row.params.get(name, value) == value for name, value in prior.items()):
                return f"{PRIOR}{index}"
    return f"{earlier.search}/{row.name}"


def _point(study: Study, row: Row) -> dict[str, Value]:
    return {**study.fixed(row.label), **row.params}


def _further_seeds(search: Path, trial: str, kinds: str) -> list[str]:
    """Suffixes of a trial's further seeds (`.r1`) and of its confirmation's (`.s0`) that were trained to the end."""
    named = re.compile(rf"{re.escape(trial)}(\.[{kinds}]\d+)")
    found = [named.fullmatch(folder.name) for folder in sorted((search / "trials").glob("*"))]
    suffixes = [match[1] for match in found if match]
    return [suffix for suffix in suffixes if evaluation_file(search, trial + suffix, 1.0).exists()]


def _copy(old: Path, new: WorkingCopy, trial: str, now: str, suffix: str) -> None:
    """A trial's folder under its new name; files are shared where the storage can do that, for nobody changes them."""
    source, to = trial_folder(old, trial + suffix), trial_folder(new.path, now + suffix)
    if not source.is_dir():
        return
    marker = source / "model" / MODEL
    had_model = marker.exists()
    try:
        shutil.copytree(source, to, copy_function=_link, dirs_exist_ok=True)
    except shutil.Error:  # raised after all that could be copied was
        if not had_model or marker.exists():
            raise
    if had_model and not marker.exists():  # its search runs, and has removed the model meanwhile
        shutil.rmtree(to / "model", ignore_errors=True)
    for record in (to / "evaluations").glob("[!.]*.json"):
        write_json(record, renamed(read_json(record), trial, now))
    new.push(*sorted(path for path in to.rglob("*") if path.is_file()))


def _copy_contents(old: SearchFolder, new: SearchFolder, same_confirmation: bool) -> None:
    """What the trials that were taken over were trained on, for the preparation to see that it is still there."""
    old.copy.pull(contents_file(old.path))
    known = read_json(contents_file(old.path)) or {}
    if not same_confirmation:
        known.pop(CONFIRMATION, None)
    write_json(contents_file(new.path), known)  # where nothing is taken over, the driver lets go of it
    new.copy.push(contents_file(new.path))


def _link(source: str, to: str) -> None:
    with contextlib.suppress(OSError):
        os.link(source, to)
        return
    shutil.copy2(source, to)
