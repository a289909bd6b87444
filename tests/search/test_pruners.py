"""Pruners: who may go on, at which evaluation, seen against whom."""

import math

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from raypo.errors import StudyError
from raypo.search.clock import BEGAN, Clock
from raypo.search.pruners import PRUNERS, HalvingPruner, make_pruner, rungs_of

AT = (1 / 6, 1 / 3, 2 / 3, 1.0)
FIRST, SECOND = 1, 2  # indices of the evaluations at 1/3 and 2/3


def study_of(*curves: list[float], states: str = "", direction: str = "maximize") -> optuna.Study:
    """A study with one trial per curve; `states` gives C(omplete), P(runed), F(ailed) or R(unning) for each."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction=direction, study_name="dpo")
    kinds = {"C": TrialState.COMPLETE, "P": TrialState.PRUNED, "F": TrialState.FAIL, "R": TrialState.RUNNING}
    for curve, state in zip(curves, states or "R" * len(curves), strict=True):
        value = curve[-1] if state == "C" else None
        study.add_trial(create_trial(state=kinds[state], value=value, intermediate_values=dict(enumerate(curve))))
    return study


def pruned(pruner: optuna.pruners.BasePruner, study: optuna.Study, number: int = -1) -> bool:
    trials: list[FrozenTrial] = study.get_trials(deepcopy=False)
    return pruner.prune(study, trials[number])


@pytest.mark.parametrize("name", [name for name in PRUNERS if name not in ("none", "wilcoxon", "hyperband")])
@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_worst_of_many_ends_and_the_best_goes_on(name: str, direction: str) -> None:
    sign = 1 if direction == "maximize" else -1
    rivals = [[0.0, sign * value] for value in (0.5, 0.6, 0.7, 0.8, 0.9)]
    pruner = make_pruner(name, AT)
    assert pruned(pruner, study_of(*rivals, [0.0, sign * 0.4], direction=direction))
    assert not pruned(pruner, study_of(*rivals, [0.0, sign * 0.95], direction=direction))


@pytest.mark.parametrize("name", ["none", "successive_halving", "hyperband", "median"])
def test_nothing_ends_before_a_third_of_the_schedule_or_at_its_end(name: str) -> None:
    pruner = make_pruner(name, AT)
    best = [1.0, 1.0, 1.0, 1.0]
    for length in (0, 1, 4):
        assert not pruned(pruner, study_of(*[best] * 8, best[:0] + [0.0] * length, states="C" * 8 + "R"))


def test_no_pruner_ends_nothing() -> None:
    assert not pruned(make_pruner("none", [1.0]), study_of([1.0], [1.0], [0.0]))


def test_a_third_written_as_a_decimal_is_a_third() -> None:
    rivals = [[value] for value in (0.5, 0.6, 0.7)]
    assert pruned(make_pruner("successive_halving", [0.333, 1.0]), study_of(*rivals, [0.1]))


def test_earlier_rungs_decide_when_asked_to() -> None:
    rivals = [[value] for value in (0.5, 0.6, 0.7)]
    assert pruned(make_pruner("successive_halving", AT, first=1 / 6), study_of(*rivals, [0.1]))


def test_an_evaluation_before_the_first_rung_decides_once_it_has_foretold_how_trials_went_on() -> None:
    """With AT = 1/6, 1/2, ...: values at 1/6, and what came of them."""
    pruner, bad = make_pruner("successive_halving", AT), [0.1]
    kept = [[early, early + 0.1] for early in (0.2, 0.3, 0.4, 0.5)]
    turned = [[early, 1 - early] for early in (0.2, 0.3, 0.4, 0.5)]
    assert pruned(pruner, study_of(*kept, bad))
    assert not pruned(pruner, study_of(*kept, [0.45])), "the better half goes on"
    assert not pruned(pruner, study_of(*kept[:3], bad)), "three trials prove nothing"
    assert not pruned(pruner, study_of(*turned, bad)), "what led early came last"
    assert not pruned(pruner, study_of(kept[0], *turned[1:], bad)), "half of the pairs kept their order"
    assert not pruned(pruner, study_of(*[[value] for value in (0.2, 0.3, 0.4, 0.5)], bad)), "none has gone on"
    assert not pruned(make_pruner("hyperband", AT), study_of(*kept, bad))
    assert not pruned(make_pruner("median", AT), study_of(*kept, bad))


@pytest.mark.parametrize(("count", "kept"), [(1, 1), (2, 1), (3, 1), (5, 1), (6, 2), (9, 3)])
def test_halving_keeps_the_best_third_and_at_least_one(count: int, kept: int) -> None:
    study = study_of(*[[0.0, float(value)] for value in range(count)])
    pruner = make_pruner("successive_halving", AT)
    assert [number for number in range(count) if not pruned(pruner, study, number)] == list(range(count - kept, count))


def test_halving_compares_at_the_same_evaluation_only() -> None:
    later = [[0.0, 0.1, 0.9], [0.0, 0.2, 0.9], [0.0, 0.3, 0.9]]
    assert not pruned(make_pruner("successive_halving", AT), study_of(*later, [0.0, 0.4]))


def test_the_first_to_arrive_never_waits() -> None:
    assert not pruned(make_pruner("successive_halving", AT), study_of([0.9], [0.8], [0.0, 0.1]))


def test_a_trial_that_failed_sets_no_standard() -> None:
    """A run that led and then diverged is not worth chasing."""
    pruner = make_pruner("successive_halving", AT)
    assert not pruned(pruner, study_of([0.0, 0.9], [0.0, 0.5], states="FR"))
    assert pruned(pruner, study_of([0.0, 0.9], [0.0, 0.5], states="PR"))


def test_the_median_judges_the_value_now_not_the_best_one_past() -> None:
    rivals = [[0.5, 0.5, 0.5]] * 4
    collapsed = [0.9, 0.9, 0.1]
    assert pruned(make_pruner("median", AT), study_of(*rivals, collapsed))
    assert pruned(make_pruner("median", AT), study_of(rivals[0], collapsed))
    assert not pruned(make_pruner("median", AT), study_of(rivals[0], [0.1, 0.1, 0.9]))


def test_not_a_number_keeps_up_with_nobody() -> None:
    assert pruned(make_pruner("successive_halving", AT), study_of([0.0, 0.1], [0.0, math.nan]))


def began_at(study: optuna.Study, *moments: float) -> optuna.Study:
    for trial, moment in zip(study._storage._studies[0].trials, moments, strict=True):
        trial.user_attrs[BEGAN] = moment
    return study


def test_a_trial_is_seen_against_what_was_reported_when_it_began() -> None:
    pruner = make_pruner("successive_halving", AT, clock=Clock(AT, rungs=rungs_of(AT)))
    for began, expected in ((0.3, False), (0.4, True)):
        study = began_at(study_of([0.0, 0.3], [0.0, 0.9], [0.0, 0.5]), 0.0, 0.0, began)
        assert pruned(pruner, study) == expected, "the others reported at 1/3"


@pytest.mark.parametrize("name", ["median", "successive_halving"])
def test_the_first_trials_are_compared_with_those_drawn_before_them(name: str) -> None:
    """They begin together; later numbers do not count, or all would have to wait for the slowest."""
    pruner = make_pruner(name, AT, clock=Clock(AT, rungs=rungs_of(AT)))
    first = began_at(study_of([0.0, 0.5], [0.0, 0.3], [0.0, 0.9], [0.0, 0.1]), 0.0, 0.0, 0.0, 0.0)
    assert [pruned(pruner, first, number) for number in range(4)] == [False, True, False, True]
    ahead = began_at(study_of([0.0, 0.5, 0.6], [0.0, 0.3, 0.8]), 0.0, 0.0)
    ahead._storage._studies[0].trials[1].intermediate_values.pop(2)
    assert pruned(pruner, ahead, 1), "what the other had later does not matter"


def test_hyperband_spreads_trials_over_brackets_and_one_never_ends_any() -> None:
    pruner = make_pruner("hyperband", AT)
    assert isinstance(pruner, HalvingPruner)
    study = study_of(*[[0.0, float(-number), float(-number)] for number in range(300)])
    brackets = [pruner.bracket("dpo", number) for number in range(300)]
    counts = [brackets.count(bracket) for bracket in range(3)]
    assert counts[0] > counts[1] > counts[2] > 0
    for number in (290, 291, 292, 293, 294, 295, 296, 297, 298, 299):
        assert pruned(pruner, study, number) == (brackets[number] < 2)
    early = study_of(*[[0.0, float(-number)] for number in range(300)])
    assert [pruned(pruner, early, n) for n in range(290, 300)] == [brackets[n] == 0 for n in range(290, 300)]


class Prompts:
    """Scores of two trials on 200 prompts of very different difficulty, the second behind by `gap` on each."""

    def __init__(self, gap: float, missing: int = 0) -> None:
        random = np.random.default_rng(0)
        difficulty = random.uniform(0, 1, 200)
        self.sets = [difficulty + random.normal(0, 0.1, 200), difficulty - gap + random.normal(0, 0.1, 200)]
        self.missing = missing

    def __call__(self, number: int, step: int) -> dict[str, float]:
        assert step == FIRST
        scores = {str(prompt): float(score) for prompt, score in enumerate(self.sets[number])}
        return scores | {str(prompt): math.nan for prompt in range(self.missing)}


def led(direction: str = "maximize") -> optuna.Study:
    return study_of([0.5, 0.5, 0.5, 0.5], [0.4, 0.4], states="CR", direction=direction)


def test_wilcoxon_sees_prompt_by_prompt_what_averages_hide() -> None:
    prompts = Prompts(gap=0.05)
    leader, trial = prompts.sets
    error = math.sqrt((leader.var() + trial.var()) / 200)
    assert leader.mean() - trial.mean() < 1.96 * error, "the two averages alone would be called equal"
    assert pruned(make_pruner("wilcoxon", AT, scores=prompts), led())


def test_wilcoxon_leaves_noise_and_the_better_one_alone() -> None:
    assert not pruned(make_pruner("wilcoxon", AT, scores=Prompts(gap=0.0)), led())
    assert not pruned(make_pruner("wilcoxon", AT, scores=Prompts(gap=-0.05)), led())
    assert pruned(make_pruner("wilcoxon", AT, scores=Prompts(gap=-0.05)), led("minimize"))


def test_wilcoxon_needs_a_finished_leader_and_enough_prompts() -> None:
    pruner = make_pruner("wilcoxon", AT, scores=Prompts(gap=0.05))
    assert not pruned(pruner, study_of([0.5, 0.5], [0.4, 0.4], states="PR"))
    assert not pruned(make_pruner("wilcoxon", AT, scores=Prompts(gap=0.05, missing=195)), led())


def test_mistakes_say_what_to_do() -> None:
    with pytest.raises(StudyError, match=r"no pruner 'halving'; there are none, successive_halving"):
        make_pruner("halving", AT)
    with pytest.raises(StudyError, match="; did you mean 'wilcoxon'"):
        make_pruner("wilcoxson", AT)
    with pytest.raises(StudyError, match=r"median decides between 0.333 and 1 .* got evaluations at \[0.1, 1.0\]"):
        make_pruner("median", [0.1, 1.0])
    with pytest.raises(StudyError, match="no scores per prompt"):
        make_pruner("wilcoxon", AT)
    several = optuna.create_study(directions=["maximize", "minimize"])
    trial = create_trial(values=[0.0, 0.0], intermediate_values={FIRST: 0.0})
    with pytest.raises(StudyError, match="one objective, got 2"):
        make_pruner("median", AT).prune(several, trial)
