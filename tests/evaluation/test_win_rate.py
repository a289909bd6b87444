import math

import numpy as np
import pytest

from raypo.errors import JudgeError
from raypo.evaluation.win_rate import bootstrap, estimate, standard_error, wilson


def test_a_win_rate_is_the_mean_with_ties_half_and_names_judge_and_opponent() -> None:
    found = estimate([1, 0.5, 0, 1], judge="rule", opponent="start")
    assert found.win_rate == 0.625
    assert (found.n, found.ties, found.failed, found.interval) == (4, 0.25, 0, "wilson")
    assert str(found).startswith("62.5 % [")
    assert str(found).endswith("(n=4, rule against start)")


def test_wilson_equals_the_textbook_interval_without_ties() -> None:
    # Closed form for 3 of 4: (p + z2/2n -+ z sqrt(p q / n + z2 / 4 n2)) / (1 + z2/n).
    n, p, z = 4, 0.75, 1.959963984540054
    root = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    expected = [(p + z * z / (2 * n) + sign * root) / (1 + z * z / n) for sign in (-1, 1)]
    assert wilson([1, 1, 1, 0]) == pytest.approx(expected, abs=1e-12)


def test_ties_narrow_the_interval_and_never_close_it() -> None:
    coins, tied, all_tied = wilson([0, 1] * 32), wilson([0, 1, *[0.5] * 6] * 8), wilson([0.5] * 64)
    width = [high - low for low, high in (coins, tied, all_tied)]
    assert width[0] > width[1] > width[2] > 0.02


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_wilson_at_the_ends_stays_inside_and_open(score: float) -> None:
    low, high = wilson([score] * 20)
    assert 0 <= low < high <= 1
    assert (high if score else low) == score
    assert high - low == pytest.approx(3.8416 / (20 + 3.8416), abs=1e-3)


def test_missing_verdicts_are_counted_and_left_out() -> None:
    found = estimate([1, math.nan, 0, math.nan], judge="j", opponent="o")
    assert (found.win_rate, found.n, found.failed) == (0.5, 2, 2)
    with pytest.raises(JudgeError, match="no verdict"):
        estimate([math.nan], judge="j", opponent="o")


def test_scores_outside_the_unit_interval_are_refused() -> None:
    with pytest.raises(JudgeError, match=r"\[0, 1\], got 0 to 2"):
        estimate([0, 2], judge="j", opponent="o")


def test_continuous_scores_get_a_bootstrap_that_is_reproducible() -> None:
    scores = np.random.default_rng(0).beta(0.5, 0.5, 200)
    found = estimate(scores, judge="j", opponent="o", seed=3)
    assert found.interval == "bootstrap"
    assert found == estimate(scores, judge="j", opponent="o", seed=3)
    assert found.ci_low < scores.mean() < found.ci_high
    assert found.standard_error == pytest.approx(scores.std(ddof=1) / math.sqrt(200), rel=1e-9)


def test_scores_of_one_prompt_move_together() -> None:
    """Showing every score four times adds prompts' games and no knowledge."""
    scores = np.random.default_rng(1).random(100)
    once = estimate(scores, judge="j", opponent="o")
    four = estimate(np.repeat(scores, 4), judge="j", opponent="o", prompts=np.repeat(np.arange(100), 4))
    assert four.n == 100
    assert four.standard_error == pytest.approx(once.standard_error, rel=1e-9)
    assert (four.ci_low, four.ci_high) == pytest.approx((once.ci_low, once.ci_high), abs=1e-12)
    apart = estimate(np.repeat(scores, 4), judge="j", opponent="o")
    assert four.ci_high - four.ci_low > 1.8 * (apart.ci_high - apart.ci_low)


def test_the_bootstrap_of_equal_scores_keeps_a_width() -> None:
    low, high = bootstrap([0.7] * 30, np.arange(30))
    assert low < 0.7 < high
    assert math.isnan(standard_error([0.3], [0]))
