"""Length control, Bradley-Terry, paired differences, agreement, text health and KL by values checked by hand."""

import math

import numpy as np
import pytest

from raypo.errors import JudgeError
from raypo.evaluation.agreement import cohen_kappa, order_consistency, place_bias
from raypo.evaluation.bradley_terry import bradley_terry, wins
from raypo.evaluation.kl import divergence
from raypo.evaluation.length_control import length_controlled
from raypo.evaluation.paired import holm, paired_difference
from raypo.evaluation.text_health import repetition, text_health


def test_equal_lengths_leave_the_win_rate_as_it_is() -> None:
    found = length_controlled([1, 1, 1, 0] * 50, [10] * 200, [10] * 200, judge="j", opponent="o")
    assert found.estimate.win_rate == pytest.approx(0.75, abs=1e-4)
    assert found.length_effect == 0


def test_a_judge_that_only_counts_words_is_seen_through() -> None:
    """The configuration answers longer and is no better; the judge prefers the longer answer seven times of ten."""
    rng = np.random.default_rng(0)
    own, other = rng.normal(130, 30, 2000), rng.normal(100, 30, 2000)
    scores = (rng.random(2000) < np.where(own > other, 0.7, 0.3)) * 1.0
    found = length_controlled(scores, own, other, judge="j", opponent="o")
    assert scores.mean() > 0.56
    assert found.estimate.ci_low < 0.5 < found.estimate.ci_high
    assert found.length_effect < -0.5


def test_answers_equal_to_the_opponents_tie_with_an_interval() -> None:
    found = length_controlled([0.5] * 24, [5] * 24, [5] * 24, judge="j", opponent="o").estimate
    assert found.win_rate == 0.5
    assert 0.4 < found.ci_low < 0.5 < found.ci_high < 0.6


def test_a_configuration_that_always_wins_has_a_finite_length_controlled_rate() -> None:
    found = length_controlled([1.0] * 64, np.arange(64), [30] * 64, judge="j", opponent="o").estimate
    assert 0.99 < found.win_rate < 1
    assert found.ci_low > 0.9


def test_missing_verdicts_leave_length_control_with_the_rest() -> None:
    scores, lengths = [1, 0, math.nan, 1] * 20, list(range(80))
    found = length_controlled(scores, lengths, [40] * 80, judge="j", opponent="o").estimate
    assert (found.n, found.failed) == (60, 20)


def test_bradley_terry_of_two_players_is_the_log_odds() -> None:
    strengths = bradley_terry(wins([0, 0, 1, 0], [1, 1, 0, 1], [1, 1, 0, 0], players=2))
    assert strengths[0] - strengths[1] == pytest.approx(math.log(3))
    assert strengths.sum() == pytest.approx(0)


def test_bradley_terry_recovers_strengths_through_opponents_in_common() -> None:
    """0 and 2 never meet: 0 takes 3/4 from 1, 1 takes 3/4 from 2, so 0 would take 9/10 from 2."""
    strengths = bradley_terry([[0, 3, 0], [1, 0, 3], [0, 1, 0]])
    assert strengths[0] - strengths[2] == pytest.approx(math.log(9))


def test_bradley_terry_refuses_infinite_strengths_and_a_prior_makes_them_finite() -> None:
    table = wins([0, 0, 1], [1, 2, 2], [1, 1, 0.5], players=3)
    with pytest.raises(JudgeError, match="best took points from others and gave none"):
        bradley_terry(table, names=["best", "b", "c"])
    assert bradley_terry(table, prior=1).argmax() == 0


def test_a_paired_difference_of_known_size() -> None:
    # Differences 1, 0, 1, 0: mean 0.5, variance 1/3, standard error sqrt(1/12), t(3) at 97.5 % is 3.1824.
    found = paired_difference([1, 0.5, 1, 0], [0, 0.5, 0, 0])
    assert (found.difference, found.n, found.dropped) == (0.5, 4, 0)
    assert found.standard_error == pytest.approx(math.sqrt(1 / 12))
    assert found.ci_low == pytest.approx(0.5 - 3.182446 * math.sqrt(1 / 12), abs=1e-6)
    assert found.p_value == pytest.approx(0.18169, abs=1e-5)


def test_pairing_sees_what_two_separate_win_rates_do_not() -> None:
    hard = np.random.default_rng(0).random(300)
    ours, theirs = np.clip(hard + 0.03, 0, 1), hard
    found = paired_difference(ours, theirs)
    assert found.p_value < 1e-6
    assert found.standard_error < 0.1 * np.sqrt(2 * hard.var() / 300)


def test_configurations_that_agree_everywhere_are_not_called_equal_for_certain() -> None:
    found = paired_difference([1, 0, 0.5] * 10, [1, 0, 0.5] * 10)
    assert (found.difference, found.p_value) == (0, 1)
    assert found.ci_low < 0 < found.ci_high
    gone = paired_difference([1, math.nan, 0, 1], [0, 1, math.nan, 1])
    assert (gone.n, gone.dropped) == (2, 2)
    with pytest.raises(JudgeError, match="needs 2 prompts"):
        paired_difference([1, math.nan], [math.nan, 0])


def test_holm_multiplies_by_the_rank_and_never_falls() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]).tolist() == [1, 1]


def test_kappa_is_one_for_agreement_and_zero_for_chance() -> None:
    assert cohen_kappa([0, 1, 2], [0, 1, 2]) == 1
    assert cohen_kappa([0, 0, 1, 1], [0, 1, 0, 1]) == 0
    assert math.isnan(cohen_kappa([1, 1], [1, 1]))


def test_a_judge_that_always_takes_the_first_is_inconsistent_and_biased() -> None:
    assert order_consistency([1, 1, 1], [0, 0, 0]) == 0
    assert place_bias([1, 1, 1], [0, 0, 0]) == 1
    assert order_consistency([1, 0.5, math.nan], [0.8, 0.5, 0]) == 1


def test_repetition_counts_fourgrams_seen_before() -> None:
    assert repetition(list("abcdefgh")) == 0
    assert repetition([1] * 13) == 0.9
    assert repetition([1, 2, 3]) == 0


def test_text_health_sees_each_way_to_collapse() -> None:
    found = text_health(
        ["fine words here", "x x x x x x x x x", " ", " "],
        [(1, 2, 3), (4,) * 9, (), ()],
        [False, True, False, False],
    )
    assert (found.repeated, found.truncated, found.empty, found.commonest) == (0.25, 0.25, 0.5, 0.5)


def test_kl_of_two_coins_is_recovered_from_samples_by_both_estimators() -> None:
    """Policy 0.8 : 0.2 against reference 0.5 : 0.5 over answers of 3 tokens."""
    rng = np.random.default_rng(0)
    heads = rng.random((20000, 3)) < 0.8
    policy = np.log(np.where(heads, 0.8, 0.2))
    exact = 3 * (0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5))
    found = divergence(list(policy), [np.full(3, math.log(0.5))] * 20000)
    assert found.k1 == pytest.approx(exact, abs=3 * found.k1_error)
    assert found.k3 == pytest.approx(exact, abs=3 * found.k3_error)
    assert found.k3_error < found.k1_error
    assert found.per_token == pytest.approx(found.k1 / 3)


def test_kl_of_the_reference_itself_is_exactly_zero() -> None:
    logps = [np.array([-1.3, -0.2]), np.array([-4.0])]
    found = divergence(logps, logps)
    assert (found.k1, found.k3) == (0, 0)


def test_k3_is_never_negative_where_k1_is() -> None:
    found = divergence([[-2.0]], [[-1.0]])
    assert found.k1 == -1
    assert found.k3 == pytest.approx(math.e - 2)
