"""The clock: what a trial sees is decided by schedules, never by which slot was faster."""

from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from raypo.search.clock import BEGAN, Clock, Timeline
from raypo.search.pruning import clock_of
from raypo.search.rows import Known
from raypo.study import build

AT = (1 / 3, 2 / 3, 1.0)
STATES = {
    "C": TrialState.COMPLETE,
    "P": TrialState.PRUNED,
    "F": TrialState.FAIL,
    "R": TrialState.RUNNING,
    "W": TrialState.WAITING,
}


def trial(number: int, letter: str, told: int, began: float | None = 0.0, **attributes: Any) -> FrozenTrial:
    """A trial that has made `told` evaluations."""
    if began is not None:
        attributes[BEGAN] = began
    attributes |= {f"evaluation:{step}": {} for step in range(told)}
    made = create_trial(
        state=STATES[letter],
        value=0.5 if letter == "C" else None,
        intermediate_values=dict.fromkeys(range(told), 0.5),
        user_attrs=attributes,
    )
    made.number = number
    return made


def following(trials: list[FrozenTrial], places: int = 4) -> float | None:
    return Timeline(Clock(AT)).next(places, Known(trials), trials.__getitem__)


def test_the_first_trials_begin_at_the_beginning() -> None:
    assert following([]) == 0.0
    assert following([trial(number, "R", 0) for number in range(3)]) == 0.0
    assert following([trial(number, "R", 0) for number in range(4)]) is None


def test_a_trial_begins_when_the_first_of_those_at_work_ends() -> None:
    first = [trial(0, "R", 1), trial(1, "P", 1), trial(2, "R", 1), trial(3, "R", 1)]
    assert following(first) == pytest.approx(1 / 3, abs=1e-9)
    assert following([*first, trial(4, "R", 0, 1 / 3)]) is None, "they are four again"


def test_whoever_may_end_at_the_same_time_is_waited_for() -> None:
    """In lockstep all of them report a third at about the same time; which one is first must not change a draw."""
    assert following([trial(0, "P", 1), trial(1, "R", 0), trial(2, "R", 1), trial(3, "R", 1)]) is None


def test_what_fails_is_over_where_it_could_first_have_ended() -> None:
    """Whether its failure was told before another draw must not matter."""
    clock = Clock(AT)
    assert clock.end(trial(0, "F", 1)) == clock.end(trial(0, "R", 1)) == pytest.approx(2 / 3, abs=1e-9)


def test_a_paused_trial_is_waited_for_by_nobody() -> None:
    paused = trial(0, "R", 0, state="paused")
    assert following([paused], places=1) == 0.0
    assert following([trial(0, "R", 0)], places=1) is None


def test_a_trial_that_goes_on_after_its_end_keeps_nobody_waiting_and_is_seen_by_all() -> None:
    again = trial(1, "R", 1, None, replaces=0)
    assert following([trial(0, "P", 1), again], places=1) == pytest.approx(1 / 3, abs=1e-9)
    assert Clock(AT).over(trial(1, "C", 3, None), 0.0)


def test_the_first_trials_wait_at_a_rung_for_those_drawn_before_them() -> None:
    clock = Clock(AT, rungs=(0, 1))

    def waits(number: int, *trials: FrozenTrial) -> bool:
        return clock.undecided(trials[number], Known(trials).open)

    assert not waits(0, trial(0, "R", 1), trial(1, "R", 0)), "the first of all waits for nobody"
    assert waits(1, trial(0, "R", 0), trial(1, "R", 1))
    assert not waits(1, trial(0, "R", 1), trial(1, "R", 1)), "both have told what they had at a third"
    assert waits(1, trial(0, "R", 1), trial(1, "R", 2))
    assert not waits(1, trial(0, "F", 0), trial(1, "R", 1)), "one that failed tells nothing more"
    assert not waits(1, trial(0, "R", 0, state="paused"), trial(1, "R", 1))
    assert not waits(1, trial(0, "R", 0), trial(1, "R", 1, 1 / 3)), "later ones see what there was when they began"
    assert not Clock(AT).undecided(trial(1, "R", 1), [trial(0, "R", 0)]), "no pruner, no rungs"


def test_a_timeline_goes_on_as_it_would_have_been_begun_anew() -> None:
    timeline, trials = Timeline(Clock(AT)), list[FrozenTrial]()
    for number in range(40):
        now = timeline.next(3, Known(trials), trials.__getitem__)
        assert now is not None
        assert now == following(trials, places=3)
        trials.append(trial(number, "PCF"[number * number % 3], 1 + 2 * (number * number % 3 == 1), now))


def test_an_enqueued_trial_that_began_and_ended_between_two_looks_counts() -> None:
    timeline, enqueued = Timeline(Clock(AT)), trial(0, "W", 0, None)
    assert timeline.next(1, Known([enqueued]), [enqueued].__getitem__) == 0.0
    ended = [trial(0, "C", 3)]
    assert timeline.next(1, Known(ended), ended.__getitem__) == 1.0


def test_fewer_places_wait_until_as_few_go_on() -> None:
    """When a method joins, the others have fewer slots to themselves."""
    trials = [trial(0, "P", 1), trial(1, "R", 2), trial(2, "R", 2)]
    assert following(trials, places=3) == pytest.approx(1 / 3, abs=1e-9)
    assert following(trials, places=2) is None


def test_an_enqueued_trial_whose_time_alone_was_written_before_a_crash_keeps_nobody_waiting() -> None:
    assert following([trial(0, "W", 0, 0.0)], places=1) == 0.0


def test_a_value_whose_evaluation_was_not_written_is_none_yet() -> None:
    """Whether to prune there is still to be decided, so the trial may have ended there."""
    torn = trial(0, "R", 1)
    torn.intermediate_values[1] = 0.5
    assert Clock(AT).end(torn) == Clock(AT).end(trial(0, "R", 1))


def test_sums_of_thirds_are_the_times_they_stand_for() -> None:
    third = Clock(AT).end(trial(0, "P", 1))
    begun = [trial(0, "P", 1), trial(1, "P", 1, third), trial(2, "P", 1, third + third)]
    assert following([*begun, trial(3, "R", 2)], places=2) is None, "trial 3 may end at 1 as well"
    assert following([*begun, trial(3, "C", 3)], places=2) == pytest.approx(1.0, abs=1e-9)


def test_a_trial_is_seen_as_it_was() -> None:
    clock, now = Clock(AT), 0.7
    seen = clock.seen(trial(3, "C", 3), now)
    assert seen is not None
    assert (seen.state, sorted(seen.intermediate_values)) == (TrialState.RUNNING, [0, 1])
    assert clock.seen(trial(3, "C", 3), 0.3) is None
    whole = trial(3, "C", 3)
    assert clock.seen(whole, 1.0) is whole
    assert clock.seen(whole, None) is whole
    failed = clock.seen(trial(3, "F", 2), now)
    assert failed is not None
    assert failed.state == TrialState.RUNNING, "nobody knew of the failure yet"


def test_further_seeds_take_a_schedule_each() -> None:
    told: dict[str, Any] = {"repeat:1": {}}
    assert Clock(AT).end(trial(0, "R", 3, **told)) == 3.0
    assert Clock(AT).end(trial(0, "C", 3, **told)) == 2.0


def test_longer_schedules_take_longer() -> None:
    study = build(
        {
            "model": {"path": "here"},
            "data": {"source": "here"},
            "objective": {"judge": {"kind": "reward_model", "path": "here"}},
            "name": "hh",
            "methods": {
                "dpo": {"epochs": {"choice": [1, 3]}},
                "ipo": {"steps": {"int": [10, 90]}, "batch_size": 4, "aggregate": "mean"},
            },
        },
        "here",
    )
    assert clock_of(study, "dpo").length({"epochs": 3}) == 3.0
    assert clock_of(study, "ipo").length({"steps": 50}) == 200.0
