"""A plan: what a study will take, before anything runs.

Steps and tokens are counted from the tokenised data. Hours come from an earlier search of the same model, data,
training and objective where the storage has one, and from a short probe in this process otherwise; a probe takes each
worker to be as fast as this machine. Pruned trials take less, so hours are an upper bound where there is a pruner, and
where further seeds are for promising trials alone.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from raypo import yaml
from raypo.data.batches import Plan as Batches
from raypo.data.tokens import TokenSet
from raypo.errors import StorageError
from raypo.search.budget import Accounts, Budget
from raypo.search.folders import artifact_store, location_of
from raypo.search.forecast import Memory, Probe, memory_of, probe
from raypo.search.materials import Materials
from raypo.search.preflight import check
from raypo.search.questions import Questions, questions_of
from raypo.search.remote import WorkingCopy
from raypo.search.rows import Row
from raypo.search.searches import SearchFolder, opened
from raypo.search.targets import targets
from raypo.search.trialing import optimisation_of
from raypo.spaces import Space, Value, corners
from raypo.study import Study

_SAME = ("model", "data", "training", "objective")
_LENGTHS = (
    "epochs",
    "steps",
    "batch_size",
    "data.fraction",
    "data.filter",
    "data.lists_to_pairs",
    "data.mix",
    "data.split",
)
"""Axes that change how long a trial is."""
_OF_A_METHOD = ("method", "epochs", "steps", "batch_size")
"""What an entry of `methods` says of how long its trials are."""


@dataclass(frozen=True)
class Length:
    """How long a trial is."""

    examples: int
    steps: int
    tokens: int


@dataclass(frozen=True)
class MethodPlan:
    """One method: trials (None where the budget decides), and what one of them takes.

    `tokens` go through the policy; `device_s` is None where nothing is known. Where axes change a trial's length, the
    average over their ends counts.
    """

    label: str
    trials: int | None
    examples: int
    steps: int
    tokens: int
    device_s: float | None


@dataclass(frozen=True)
class Plan:
    """What a study will take."""

    name: str
    methods: tuple[MethodPlan, ...]
    runs: int | None
    """Trainings: trials times seeds, and those of the confirmation; None where the budget decides."""
    hours: float | None
    device_hours: float | None
    basis: str
    memory: Memory
    questions: Questions


def plan(study: Study, say: Callable[[str], None], *, probing: bool = True) -> Plan:
    """Work out a study's plan; the data it tokenises and the model it fetches are kept for the search.

    Raises:
        StudyError: a search would refuse the study.
    """
    check(study, say)
    materials = Materials(study, artifact_store(study.storage), say)
    lengths = {label: _length(materials, study, label) for label in study.methods}
    tokens = {label: _tokens(materials, study, label, points_of(study, label)[0]) for label in study.methods}
    costs, basis = earlier(study) or (dict[str, float](), "no measurement")
    if probing and not costs.keys() >= study.methods.keys():
        found = probe(materials, tokens, say)
        costs = {label: device_s(study, found, label, length.tokens) for label, length in lengths.items()}
        basis = "a probe of a few steps here"
    methods = tuple(
        MethodPlan(label, targets(study)[label], length.examples, length.steps, length.tokens, costs.get(label))
        for label, length in lengths.items()
    )
    return assembled(study, methods, basis, memory_of(materials, tokens))


def assembled(study: Study, methods: tuple[MethodPlan, ...], basis: str, memory: Memory) -> Plan:
    """The totals over all methods, their seeds and the confirmation; a budget holds the trials and not the latter."""
    budget, seeds, top = Budget.of(study, 0.0), study.search.repeats.seeds, study.confirm.top
    trials = None if any(m.trials is None for m in methods) else sum(m.trials or 0 for m in methods)
    again = [min(top if m.trials is None else m.trials, top) * study.confirm.seeds for m in methods]
    hours = device_hours = None
    costs = [m.device_s for m in methods if m.device_s is not None]
    if len(costs) == len(methods):
        confirming = sum(cost * n for cost, n in zip(costs, again, strict=True))
        wanted = sum((math.inf if m.trials is None else m.trials * seeds) * (m.device_s or 0.0) for m in methods)
        searching = min(wanted, budget.whole_s if budget.limited else math.inf)
        search_s = min(_lasts_s(study, searching, seeds * max(costs)), budget.wall_s or math.inf)
        hours = (search_s + _lasts_s(study, confirming, max(costs))) / 3600
        device_hours = (searching + confirming) / 3600
    return Plan(
        name=study.name,
        methods=methods,
        runs=None if trials is None else trials * seeds + sum(again),
        hours=hours,
        device_hours=device_hours,
        basis=basis,
        memory=memory,
        questions=questions_of(study, trials, sum(again)),
    )


def _lasts_s(study: Study, device_s: float, longest_s: float) -> float:
    """Seconds of the clock for so many device-seconds, of which a trial takes `longest_s` on one slot alone."""
    slots, workers = study.resources.slots, study.resources.workers
    return max(device_s / slots, min(device_s, longest_s)) / workers


def device_s(study: Study, found: Probe, label: str, tokens: int) -> float:
    """Device-seconds of one trial of a method: its training and its evaluations."""
    answers = study.objective.prompts.count * len(study.objective.at)
    return tokens * found.token_s[label] + answers * found.answer_s


def earlier(study: Study) -> tuple[dict[str, float], str] | None:
    """Median device-seconds of one training by method in the newest search that trained the same, with its name."""
    names = WorkingCopy(location_of(study.storage, study.name)).neighbours()
    found: list[SearchFolder] = []
    for name in names:
        with contextlib.suppress(StorageError):  # a folder that was renamed
            found.append(opened(study.storage, name))
    for search in sorted(found, key=lambda search: -(search.path / "search.json").stat().st_mtime):
        before = yaml.load_file(search.path / "study.yaml")
        if not _trains_the_same(study.written(), before):
            continue
        known = _costs(study, search, before["methods"])
        if known:
            return known, f"what trials of {search.name} cost"
    return None


def _costs(study: Study, search: SearchFolder, before: Mapping[str, Any]) -> dict[str, float]:
    """What one training of each method that is as long has cost in a search, of whose study `before` has the methods.

    Nothing where its ledger cannot be read.
    """
    try:
        accounts = Accounts(replace(row, cost_s=_own_seed_s(row)) for row in search.ledger.rows())
    except StorageError:
        return {}
    now = study.written()["methods"]
    costs = {label: accounts.typical(label) for label in now if _as_long(now[label], before.get(label))}
    return {label: cost for label, cost in costs.items() if cost is not None}


def _as_long(one: Mapping[str, Any], other: Mapping[str, Any] | None) -> bool:
    return other is not None and all(one.get(name) == other.get(name) for name in _OF_A_METHOD)


def _own_seed_s(row: Row) -> float:
    """Device-seconds of a trial's own seed, for a plan counts further ones as trainings too."""
    return sum(entry["cost_s"] for name, entry in row.attributes.items() if name.startswith("evaluation:"))


def _trains_the_same(one: Mapping[str, Any], other: Any) -> bool:
    if not isinstance(other, Mapping) or one["resources"]["workers"] != other["resources"]["workers"]:
        return False
    return all(one[section] == other.get(section) for section in _SAME)


def points_of(study: Study, label: str) -> list[dict[str, Value]]:
    """Points of a method's space at every end of the axes that change how long a trial is, at first values else."""
    axes = study.axes(label)
    axes |= {name: v.values[0] for name, v in axes.items() if isinstance(v, Space) and name not in _LENGTHS}
    return list(corners(axes))


def _tokens(materials: Materials, study: Study, label: str, point: Mapping[str, Value]) -> TokenSet:
    kind: Any = study.methods[label].method.data
    return materials.training_tokens(kind, point).set


def _length(materials: Materials, study: Study, label: str) -> Length:
    """The average over a method's points."""
    found = [_of_a_point(_tokens(materials, study, label, point), point) for point in points_of(study, label)]
    examples, steps, tokens = (round(sum(figures) / len(found)) for figures in zip(*found, strict=True))
    return Length(examples, steps, tokens)


def _of_a_point(tokens: TokenSet, point: Mapping[str, Value]) -> tuple[int, int, int]:
    """Examples, steps and tokens that a trial takes."""
    wanted = optimisation_of(point)
    batches = Batches.of(tokens, wanted.batch_size, 0)
    steps = wanted.steps or max(1, math.ceil(round((wanted.epochs or 0) * batches.steps_per_epoch, 9)))
    return len(tokens), steps, round(steps / batches.steps_per_epoch * int(tokens.example_lengths().sum()))
