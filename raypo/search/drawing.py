"""Drawing: which method gets the next trial, and the point that its sampler chooses."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from functools import partial

from optuna.trial import FrozenTrial

from raypo.errors import StudyError
from raypo.search.budget import Position
from raypo.search.clock import Timeline
from raypo.search.constraints import Rules, parse_rules
from raypo.search.ledger import Ledger, Row, trial_name
from raypo.search.pruning import clock_of, pruner_name
from raypo.search.samplers import RepeatableSampler, make_sampler, seed_of
from raypo.study import Study

PRIOR = "prior:"
"""How the source of a published point begins."""


class Drawing:
    """Opens trials in the ledger."""

    def __init__(self, study: Study, ledger: Ledger, concurrent: int) -> None:
        self._ledger, self._concurrent = ledger, concurrent
        self._samplers: dict[str, RepeatableSampler] = {}
        self._timelines: dict[str, Timeline] = {}
        self.adopt(study)

    def adopt(self, study: Study) -> None:
        """Go on with a study that has methods more."""
        self._study = study
        for label in study.methods.keys() - self._samplers.keys():
            self._samplers[label] = sampler_of(study, label)
            self._timelines[label] = Timeline(clock_of(study, label))

    def counts(self, targets: Mapping[str, int | None], dropped: Collection[str]) -> dict[str, int]:
        """Trials drawn of each method that may still get some; a target of None has no end.

        A grid ends with its last cell alone: of the trials that a fork took over, two may have one cell, or one none.
        """
        grid = self._study.search.sampler == "grid"
        drawn = {label: self._ledger.known(label).drawn for label in self._study.methods if label not in dropped}
        return {
            label: count
            for label, count in drawn.items()
            if (grid or count < (targets[label] or math.inf))
            and not self._samplers[label].used_up(self._ledger.study(label), self._ledger.known(label))
        }

    def draw(self, position: Position) -> Row | None:
        """The next trial, or None where none may begin or it has to wait for results.

        An enqueued one whose values leave no room for the others comes back failed.
        """
        for label in self._asked_for(position.order()):
            if position.lead(label) > self._concurrent or not position.may_start(label):
                continue  # one that has to wait for results must not be left far behind
            now = self._begins(label)
            if now is None and self._looks:
                continue
            return self._ask(label, now)
        return None

    def _ask(self, label: str, now: float | None) -> Row:
        known = self._ledger.known(label)
        number, enqueued = known.next_number, bool(known.waiting)
        seed = seed_of(self._study.search.seed, f"{label}/training", known.next_seed)
        try:
            return self._ledger.ask(label, self._samplers[label], seed, now)
        except StudyError as error:
            if not enqueued:
                raise
            return self._ledger.end(self._ledger.row(trial_name(label, number)), "failed", str(error))

    @property
    def _looks(self) -> bool:
        """Whether anything that is decided about a trial depends on what others found."""
        wanted = self._study.search
        blind = wanted.sampler in ("random", "grid")
        compared = pruner_name(self._study) != "none" or self._study.objective.racing
        return not blind or compared or wanted.repeats.promising_only

    def _begins(self, label: str) -> float | None:
        """When the next trial of a method begins, by its clock; None while that cannot be told or does not matter."""
        if not self._looks:
            return None
        # All slots, though methods share them: one whose trials take longer needs more than its share to keep up.
        places, known = self._study.resources.slots, self._ledger.known(label)
        return self._timelines[label].next(places, known, partial(self._ledger.trial, label))

    def _asked_for(self, order: list[str]) -> list[str]:
        """Methods with a trial that a command enqueued come first; published points wait for their method's turn."""
        asked = {label for label in order if any(map(_by_command, self._ledger.known(label).waiting))}
        return sorted(order, key=lambda label: label not in asked)


def _by_command(trial: FrozenTrial) -> bool:
    return not str(trial.user_attrs.get("source", "")).startswith(PRIOR)


def sampler_of(study: Study, label: str) -> RepeatableSampler:
    """The study's sampler over the space of a method."""
    space = {name: axis.distribution() for name, axis in study.space(label).items()}
    settings, rules = study.search, rules_of(study, label)
    return make_sampler(settings.sampler, settings.seed, space, rules=rules, clock=clock_of(study, label))


def rules_of(study: Study, label: str) -> Rules:
    """The study's constraints as far as they concern a method, and the method's own conditions.

    Raises:
        StudyError: one of them is no rule.
    """
    return parse_rules(
        study.search.constraints,
        {name: axis.distribution() for name, axis in study.space(label).items()},
        conditions=study.methods[label].conditions,
        fixed=study.fixed(label),
        elsewhere={name for other in study.methods for name in study.axes(other)},
    )
