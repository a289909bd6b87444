"""Whether the winners of two methods differ: paired on the prompts that both answered, corrected for many pairs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations

from raypo.evaluation.paired import holm, paired_difference
from raypo.search.results import SearchResults
from raypo.tracking.compare import winner
from raypo.tracking.record import final_scores

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


def significance(results: SearchResults) -> list[Pair]:
    """Compare the winners of all pairs of methods; a pair with fewer than two prompts in common is left out."""
    best = {method: winner(results.trials, method) for method in results.methods}
    scores = {method: final_scores(trial.folder) for method, trial in best.items() if trial is not None}
    pairs = []
    for first, second in combinations(scores, 2):
        shared = [prompt for prompt in scores[first] if prompt in scores[second]]
        if len(shared) >= 2:
            found = paired_difference([scores[first][p] for p in shared], [scores[second][p] for p in shared])
            figures = (found.difference, found.ci_low, found.ci_high, found.p_value, found.n)
            pairs.append(Pair(first, second, *figures))
    corrected = holm([pair.p_value for pair in pairs])
    return [replace(pair, p_value=float(value)) for pair, value in zip(pairs, corrected, strict=True)]
