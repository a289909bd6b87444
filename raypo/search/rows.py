"""Rows: what an Optuna trial of the ledger says, as plain frozen data."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from raypo.search.ranking import Standing, standing_of

_STATES = {TrialState.RUNNING: "running", TrialState.WAITING: "waiting", TrialState.COMPLETE: "finished"}

ADOPTED = "adopted"
"""The attribute of a trial that another search has trained: how many seeds of the method that search has used."""


@dataclass(frozen=True)
class Row:
    """One trial as the ledger knows it."""

    name: str
    label: str
    number: int
    state: str
    params: dict[str, Any]
    seed: int
    evaluations: tuple[dict[str, Any], ...] = ()
    reason: str | None = None
    cost_s: float = 0.0
    checkpoint: str | None = None
    confirmation: dict[str, Any] | None = None
    benchmarks: list[dict[str, Any]] | None = None
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        return self.state not in ("running", "waiting", "paused")

    @property
    def standing(self) -> Standing | None:
        """What it is ranked by; None where it was not trained to the end and measured."""
        able = self.state == "finished" and bool(self.evaluations)
        return standing_of(self.evaluations[-1], self.confirmation) if able else None


def trial_name(label: str, number: int) -> str:
    return f"{label}-{number:04d}"


def renamed(value: Any, old: str, new: str) -> Any:
    """Plain data that names a trial, its further seeds or its files, as if the trial had always had the new name."""
    if isinstance(value, str):
        return re.sub(rf"(?<![\w-]){re.escape(old)}(?![\w-])", new, value)
    if isinstance(value, Mapping):
        return {renamed(key, old, new): renamed(inner, old, new) for key, inner in value.items()}
    return [renamed(inner, old, new) for inner in value] if isinstance(value, list | tuple) else value


def replaced_by(trials: Iterable[FrozenTrial]) -> dict[int, int]:
    """Numbers of ended trials that went on as another one, with the number of that one."""
    return {t.user_attrs["replaces"]: t.number for t in trials if "replaces" in t.user_attrs}


def row_of(label: str, trial: FrozenTrial, notes: Mapping[str, Any]) -> Row:
    """One trial of a method; `notes` are the attributes of the method's study."""
    attributes = trial.user_attrs
    evaluations: list[dict[str, Any]] = []
    while (entry := attributes.get(f"evaluation:{len(evaluations)}")) is not None:
        evaluations.append(entry)
    if "average" in attributes:
        evaluations[-1] = attributes["average"]
    cost_s = sum(entry.get("cost_s", 0.0) for entry in [*evaluations, *_seeds(attributes)])
    return Row(
        name=attributes.get("name", trial_name(label, trial.number)),
        label=label,
        number=trial.number,
        state=_state(trial),
        params=dict(trial.params) or dict(trial.system_attrs.get("fixed_params", {})),
        seed=attributes.get("seed", 0),
        evaluations=tuple(evaluations),
        reason=attributes.get("reason"),
        cost_s=cost_s + attributes.get("lost_s", 0.0),
        checkpoint=attributes.get("checkpoint"),
        confirmation=notes.get(f"confirmation:{trial.number}"),
        benchmarks=notes.get(f"benchmarks:{trial.number}"),
        attributes=attributes,
    )


def _seeds(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Outcomes of further seeds that no average has taken in yet."""
    return [] if "average" in attributes else [v for name, v in attributes.items() if name.startswith("repeat:")]


def _state(trial: FrozenTrial) -> str:
    """What was written of an ended or paused trial; Optuna's word for the others, for a crash may come in between."""
    told = trial.user_attrs.get("state")
    if told is None or (not trial.state.is_finished() and told != "paused"):
        return _STATES.get(trial.state, "failed")
    return str(told)


class Known:
    """Which trials of a method are open and how many were drawn, without another look at all that have ended.

    It holds as far as trials were shown to it; the one driver of a search shows it whatever it writes.
    """

    def __init__(self, trials: Iterable[FrozenTrial]) -> None:
        self.count = 0
        self.replaced: dict[int, int] = {}
        self._adopted: dict[int, int] = {}
        self._open: dict[int, FrozenTrial] = {}
        for trial in trials:
            self.see(trial)

    def see(self, trial: FrozenTrial) -> None:
        """Take in what a trial is like now."""
        self.count = max(self.count, trial.number + 1)
        if "replaces" in trial.user_attrs:
            self.replaced[trial.user_attrs["replaces"]] = trial.number
        if ADOPTED in trial.user_attrs:
            self._adopted[trial.number] = trial.user_attrs[ADOPTED]
        if trial.state.is_finished():
            self._open.pop(trial.number, None)
        else:
            self._open[trial.number] = trial

    @property
    def open(self) -> list[FrozenTrial]:
        """Trials that have not ended, in the order of their numbers."""
        return [self._open[number] for number in sorted(self._open)]

    @property
    def waiting(self) -> list[FrozenTrial]:
        """Enqueued trials that were not drawn yet."""
        return [trial for trial in self.open if trial.state == TrialState.WAITING]

    @property
    def drawn(self) -> int:
        """Trials that were drawn; one that goes on after its end is still the same."""
        return self.count - len(self.waiting) - len(self.replaced)

    @property
    def next_number(self) -> int:
        """The number of the trial that is drawn next."""
        waiting = self.waiting
        return waiting[0].number if waiting else self.count

    @property
    def seeds(self) -> int:
        """How many seeds are used; of those of a search that trials were taken over from none is used again."""
        return self.count + self._ahead

    @property
    def next_seed(self) -> int:
        """The number that the next trial's seeds are made from: its own, where no trial was taken over."""
        return self.next_number + self._ahead

    @property
    def _ahead(self) -> int:
        taken = len(self._adopted)
        return max(taken, *self._adopted.values()) - taken if taken else 0

    def latest(self, number: int) -> int:
        """The number under which a trial goes on."""
        while number in self.replaced:
            number = self.replaced[number]
        return number
