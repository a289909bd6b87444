"""Whether the winners of two methods differ: paired on the prompts that both answered, corrected for many pairs.

The answers are those that the winners' quoted figures rest on, so that figure and test never speak of different data.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations

from raypo.evaluation.paired import holm, paired_difference
from raypo.search.results import SearchResults
from raypo.tracking.compare import Comparison, MethodRow, winner
from raypo.tracking.record import quoted_scores

LEVEL = 0.05


@dataclass(frozen=True)
class Pair:
    """Win rate of `first` minus that of `second` over `n` shared prompts, with its 95 % interval.

    `p_value` is two-sided and holds for all pairs of the search together (Holm).
    """

    first: str
    second: str
    difference: float
    ci_low: float
    ci_high: float
    p_value: float
    n: int

    @property
    def certain(self) -> bool:
        """Whether the difference is more than chance would make of as many pairs."""
        return self.p_value < LEVEL

    @property
    def order(self) -> tuple[str, str]:
        """The better of the two, then the other."""
        return (self.first, self.second) if self.difference > 0 else (self.second, self.first)


def significance(results: SearchResults) -> list[Pair]:
    """Compare the winners of all pairs of methods; a pair with fewer than two prompts in common is left out."""
    best = {method: winner(results.trials, method) for method in results.methods}
    scores = {method: quoted_scores(trial) for method, trial in best.items() if trial is not None}
    pairs = []
    for first, second in combinations(scores, 2):
        shared = [prompt for prompt in scores[first] if prompt in scores[second]]
        if len(shared) >= 2:
            found = paired_difference([scores[first][p] for p in shared], [scores[second][p] for p in shared])
            figures = (found.difference, found.ci_low, found.ci_high, found.p_value, found.n)
            pairs.append(Pair(first, second, *figures))
    corrected = holm([pair.p_value for pair in pairs])
    return [replace(pair, p_value=float(value)) for pair, value in zip(pairs, corrected, strict=True)]


def verdict(comparison: Comparison, pairs: list[Pair]) -> str:
    """Say in one sentence which method won, and whether the data can tell it from every other one.

    The pairs are of win rates, and test no other objective.
    """
    rows = [row for row in comparison.rows if row.win_rate is not None]
    if not rows:
        return "No trial has been fully trained yet."
    best, *others = sorted(rows, key=_chosen_by, reverse=True)
    metric = comparison.metric
    if metric.name != "win_rate":
        untested = "; whether by more than chance is not tested, only win rates are" if others else ""
        return f"{best.method} is ahead with {metric.title} {metric.say(comparison.chosen_by(best))}{untested}."
    said = f"{best.method} is ahead with {metric.say(best.win_rate)}"
    beaten = {worse for better, worse in (pair.order for pair in pairs if pair.certain) if better == best.method}
    unclear = [row.method for row in others if row.method not in beaten]
    if unclear:
        return f"{said}; these data cannot tell it from {_listed(unclear)}."
    return f"{said}, more than chance explains." if others else f"{said}."


def _chosen_by(row: MethodRow) -> float:
    return (row.win_rate if row.objective is None else row.objective) or 0.0


def basis(comparison: Comparison) -> str:
    """Say which answers the pairs were tested on."""
    confirmed = [row.confirmed for row in comparison.rows if row.trial is not None]
    if not any(confirmed):
        return "The winners were picked on these prompts, so both look better than they are."
    if all(confirmed):
        return "Tested on the confirmation's answers, averaged over its seeds by prompt; no winner was picked on these."
    return (
        "Confirmed winners are tested on the confirmation's answers, averaged over its seeds by prompt, the others on "
        "the search's own; one of each kind cannot be compared, for they answered different prompts."
    )


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
