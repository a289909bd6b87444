"""Drawing: which method gets the next trial, and the point that its sampler chooses."""

from __future__ import annotations

from optuna.trial import FrozenTrial

from raypo.search.budget import Position
from raypo.search.constraints import Rules, parse_rules
from raypo.search.ledger import Ledger, Row
from raypo.search.samplers import RepeatableSampler, make_sampler, seed_of
from raypo.study import Study

PRIOR = "prior:"
"""How the source of a published point begins."""


class Drawing:
    """Opens trials in the ledger."""

    def __init__(self, study: Study, ledger: Ledger, concurrent: int) -> None:
        self._study, self._ledger, self._concurrent = study, ledger, concurrent
        self._samplers = {label: self._sampler(label) for label in study.methods}

    def adopt(self, study: Study) -> None:
        """Go on with a study that has methods more."""
        self._study = study
        self._samplers |= {label: self._sampler(label) for label in study.methods if label not in self._samplers}

    def count(self, label: str) -> int:
        """Trials of a method that were drawn."""
        return self._ledger.known(label).drawn

    def draw(self, position: Position) -> Row | None:
        """The next trial, or None where none may begin or the sampler has to wait for results."""
        for label in self._asked_for(position.order()):
            if position.lead(label) > self._concurrent or not position.may_start(label):
                continue  # one that has to wait for results must not be left far behind
            known, sampler = self._ledger.known(label), self._samplers[label]
            number = known.next_number
            if sampler.waits_for(number, known.open):
                continue
            return self._ledger.ask(label, sampler, seed_of(self._study.search.seed, f"{label}/training", number))
        return None

    def _asked_for(self, order: list[str]) -> list[str]:
        """Methods with a trial that a command enqueued come first; published points wait for their method's turn."""
        asked = {label for label in order if any(map(_by_command, self._ledger.known(label).waiting))}
        return sorted(order, key=lambda label: label not in asked)

    def _sampler(self, label: str) -> RepeatableSampler:
        space = {name: axis.distribution() for name, axis in self._study.space(label).items()}
        settings = self._study.search
        rules = rules_of(self._study, label)
        return make_sampler(settings.sampler, settings.seed, space, rules=rules, lag=self._concurrent)


def _by_command(trial: FrozenTrial) -> bool:
    return not str(trial.user_attrs.get("source", "")).startswith(PRIOR)


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
