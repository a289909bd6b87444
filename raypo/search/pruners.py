"""Pruners by name: whether a trial is worth training on, decided at the evaluations of its schedule.

A step, as the ledger reports it to Optuna, is the index of an evaluation in `objective.at`, so trials are compared at
equal fractions of the schedule. Nothing is decided before the first rung, one third of the schedule by default: a large
learning rate looks good early and collapses late. Successive halving alone uses an evaluation before it, once that has
foretold how trials went on. Every decision is a function of the reported values alone, keeps no state, and never
waits. With a `clock` it looks at what was reported when the trial began, so that a pruned search too repeats exactly.
The first trials, which began together and saw nobody, are compared with those drawn before them, at the same time.

Optuna's own pruners differ in ways that matter here: successive halving writes to the storage while deciding and
spaces its rungs by powers, the median pruner credits a collapsed trial with its best past value, and Wilcoxon takes
steps to be prompts, which leaves no step for the schedule.
"""

import math
import zlib
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from statistics import fmean, median

import optuna
from optuna.pruners import BasePruner, NopPruner
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from scipy import stats

from raypo.errors import StudyError, nearest
from raypo.search.clock import Clock, among_first, began
from raypo.search.rows import replaced_by
from raypo.search.samplers import label_of

PRUNERS = ("none", "successive_halving", "hyperband", "median", "wilcoxon")

PromptScores = Callable[[int, int], Mapping[str, float]]
"""Scores per prompt id of one trial (by number) at one evaluation (by index); nan where there is no verdict."""

_FORETOLD_TRIALS = 4
_FORETOLD_PAIRS = 0.8  # share of their pairs that kept their order
_FEWEST_PROMPTS = 10  # below it the signed-rank test can hardly reach its threshold


def rungs_of(at: Sequence[float], first: float = 1 / 3) -> tuple[int, ...]:
    """Indices of the evaluations, at the fractions `at`, that may end a trial: from the fraction `first` on.

    >>> rungs_of([1 / 9, 1 / 3, 2 / 3, 1])
    (1, 2)
    """
    return tuple(index for index, fraction in enumerate(at) if first - 1e-3 <= fraction < 1)


def make_pruner(
    name: str,
    at: Sequence[float],
    *,
    first: float = 1 / 3,
    reduction: int = 3,
    p_value: float = 0.05,
    scores: PromptScores | None = None,
    clock: Clock = Clock(),
) -> BasePruner:
    """The pruner called `name` for a schedule that is evaluated at the fractions `at`, each in (0, 1].

    `first` is the earliest fraction of the schedule that may decide unproven; `successive_halving` and `hyperband` let
    the best 1 / `reduction` of a rung go on; `wilcoxon` ends a trial that is worse than the leader at `p_value` on
    `scores`. `clock` says what was reported when a trial began; one without that moment is seen against all there is.

    Raises:
        StudyError: no such pruner, or the schedule has no evaluation it could decide at.
    """
    if name not in PRUNERS:
        there_are = ", ".join(PRUNERS)
        raise StudyError(f"search.pruner: no pruner {name!r}; there are {there_are}{nearest(name, PRUNERS)}")
    if name == "none":
        return NopPruner()
    rungs = rungs_of(at, first)
    if not rungs:
        raise StudyError(
            f"search.pruner: {name} decides between {first:.3g} and 1 of the schedule, got evaluations at {list(at)}; "
            "add one to objective.at, such as 1/3, or set the pruner to none"
        )
    if name == "wilcoxon":
        if scores is None:
            raise StudyError("search.pruner: wilcoxon compares prompt by prompt, got no scores per prompt; use median")
        return WilcoxonPruner(rungs, clock, p_value, scores)
    if name == "median":
        return MedianPruner(rungs, clock)
    if name == "hyperband":
        return HalvingPruner(rungs, clock, reduction, brackets=len(rungs) + 1)
    return HalvingPruner(range(rungs[-1] + 1), clock, reduction, unproven=range(rungs[0]))


class RungPruner(BasePruner):
    """Decides at its rungs, whether the latest value of a trial keeps up with what others had at the same step."""

    def __init__(self, rungs: Sequence[int], clock: Clock) -> None:
        self.rungs = tuple(rungs)
        self.clock = clock

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether to stop `trial` at its last reported step; where its time is known, whenever that is asked."""
        if len(study.directions) > 1:
            raise StudyError(f"search.pruner: compares one objective, got {len(study.directions)}; set it to none")
        step = trial.last_step
        if step not in self.rungs:
            return False
        trials = study.get_trials(deepcopy=False)
        replaced = replaced_by(trials)
        others = [other for other in trials if other.number not in replaced and other.number != trial.number]
        return not self.keeps_up(study, trial, step, self._standard(others, trial))

    @abstractmethod
    def keeps_up(self, study: optuna.Study, trial: FrozenTrial, step: int, others: Sequence[FrozenTrial]) -> bool:
        """Whether `trial` may go on from `step`, seen against `others`."""

    def _standard(self, others: Sequence[FrozenTrial], trial: FrozenTrial) -> list[FrozenTrial]:
        """The others as they were when the trial began; for one of the first, those before it as they are by now.

        Failed and diverged ones set no standard: what they had before is not worth chasing.
        """
        step, now = trial.last_step, began(trial)
        if step in self.clock.rungs and among_first(trial):
            others, now = [other for other in others if other.number < trial.number], self.clock.told(trial, step)
        seen = [self.clock.seen(other, now) for other in others]
        return [other for other in seen if other is not None and other.state != TrialState.FAIL]


class HalvingPruner(RungPruner):
    """Asynchronous successive halving (Li et al., 2020), or hyperband where there are several brackets.

    A trial goes on when it is among the best 1 / `reduction` of all that reported at the rung so far, at least the best
    one. Bracket b decides from the b-th rung on, the last one never, so hyperband insures against misleading rungs.
    A rung that is `unproven` decides only once the trials that went on from it have mostly kept their order, and then
    lets the better half go on.
    """

    def __init__(
        self, rungs: Sequence[int], clock: Clock, reduction: int, brackets: int = 1, unproven: Sequence[int] = ()
    ) -> None:
        super().__init__(rungs, clock)
        self.reduction, self.unproven = reduction, tuple(unproven)
        # An early bracket trains few of its trials to the end, so an equal share of the budget pays for more of them.
        self.shares = [math.ceil(brackets * reduction ** (brackets - 1 - b) / (brackets - b)) for b in range(brackets)]

    def keeps_up(self, study: optuna.Study, trial: FrozenTrial, step: int, others: Sequence[FrozenTrial]) -> bool:
        name = label_of(study)
        bracket = self.bracket(name, trial.number)
        if step not in self.rungs[bracket:]:
            return True
        early = step in self.unproven
        if early and not self.foretells(study, step, others):
            return True
        peers = [other for other in others if self.bracket(name, other.number) == bracket]
        mine = _merit(study, trial, step)
        rung = sorted([mine, *(_merit(study, peer, step) for peer in peers if step in peer.intermediate_values)])
        return mine >= rung[-max(1, len(rung) // (2 if early else self.reduction))]

    def foretells(self, study: optuna.Study, step: int, others: Sequence[FrozenTrial]) -> bool:
        """Whether the values at `step` have ordered trials as the latest values of those that went on do."""
        on = [other for other in others if step in other.intermediate_values and (other.last_step or 0) > step]
        values = [(_merit(study, other, step), _merit(study, other, other.last_step or 0)) for other in on]
        kept = [(a[0] - b[0]) * (a[1] - b[1]) > 0 for a, b in combinations(values, 2)]
        return len(on) >= _FORETOLD_TRIALS and fmean(kept) >= _FORETOLD_PAIRS

    def bracket(self, study_name: str, number: int) -> int:
        """The bracket of a trial, from a hash, so that it needs no memory."""
        place = zlib.crc32(f"{study_name}:{number}".encode()) % sum(self.shares)
        return next(b for b in range(len(self.shares)) if place < sum(self.shares[: b + 1]))


class MedianPruner(RungPruner):
    """Ends a trial that is below the median of the others at the same step, be it a single one."""

    def keeps_up(self, study: optuna.Study, trial: FrozenTrial, step: int, others: Sequence[FrozenTrial]) -> bool:
        rivals = [_merit(study, other, step) for other in others if step in other.intermediate_values]
        return not rivals or _merit(study, trial, step) >= median(rivals)


class WilcoxonPruner(RungPruner):
    """Ends a trial that is worse than the leader was at the same step, prompt by prompt (Wilcoxon's signed ranks).

    The leader is the best finished trial. Prompts differ far more in difficulty than configurations do in quality, so
    the paired test sees differences that two averages hide, and leaves alone those that are noise.
    """

    def __init__(self, rungs: Sequence[int], clock: Clock, p_value: float, scores: PromptScores) -> None:
        super().__init__(rungs, clock)
        self.p_value = p_value
        self.scores = scores

    def keeps_up(self, study: optuna.Study, trial: FrozenTrial, step: int, others: Sequence[FrozenTrial]) -> bool:
        done = [other for other in others if other.state == TrialState.COMPLETE and step in other.intermediate_values]
        if not done:
            return True
        leader = max(done, key=lambda other: (_sign(study) * other.values[0], -other.number))
        ours, theirs = self.scores(trial.number, step), self.scores(leader.number, step)
        differences = [_sign(study) * (ours[prompt] - theirs[prompt]) for prompt in ours.keys() & theirs.keys()]
        differences = sorted(difference for difference in differences if not math.isnan(difference))
        if len(differences) < _FEWEST_PROMPTS or fmean(differences) >= 0:
            return True
        test = stats.wilcoxon(differences, alternative="less", zero_method="zsplit")
        return bool(test.pvalue >= self.p_value)


def _sign(study: optuna.Study) -> float:
    return -1.0 if study.direction == StudyDirection.MINIMIZE else 1.0


def _merit(study: optuna.Study, trial: FrozenTrial, step: int) -> float:
    """The value at a step, larger is better, with nan behind everything."""
    value = _sign(study) * trial.intermediate_values[step]
    return -math.inf if math.isnan(value) else value
