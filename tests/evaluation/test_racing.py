from collections.abc import Callable

import numpy as np
import pytest

from raypo.data.records import Text
from raypo.errors import JudgeError
from raypo.evaluation.judges import Comparison
from raypo.evaluation.judges.rule import rule
from raypo.evaluation.racing import Finish, Race, interval, judged_until_behind, run, run_in_turn, share, trails


def field(rates: list[float], prompts: int, seed: int) -> np.ndarray:
    """Verdicts [configurations, prompts] whose prompts are hard or easy for all alike."""
    rng = np.random.default_rng(seed)
    shared = rng.random(prompts)
    own = rng.random((len(rates), prompts))
    return (np.where(rng.random((len(rates), prompts)) < 0.5, shared, own) < np.array(rates)[:, None]) * 1.0


def test_blocks_hold_every_prompt_once_in_the_same_order_for_all() -> None:
    race = Race(prompts=100, block=32, seed=4)
    blocks = race.blocks()
    assert [len(block) for block in blocks] == [32, 32, 32, 4]
    assert sorted(np.concatenate(blocks)) == list(range(100))
    assert np.array_equal(np.concatenate(blocks), np.concatenate(Race(prompts=100, block=32, seed=4).blocks()))
    assert not np.array_equal(blocks[0], np.arange(32))


def test_the_interval_narrows_and_closes_when_prompts_run_out() -> None:
    apart = np.random.default_rng(0).choice([-1.0, 0, 1], 400)
    widths = [np.diff(interval(apart[:n], Race(400)))[0] for n in (32, 100, 200, 390, 400)]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] == 0


def test_a_hopeless_configuration_stops_after_one_block_and_a_close_one_goes_on() -> None:
    finishes = [run(field([0.8, 0.79, 0.05], 512, seed), Race(512, block=32, error=0.05)) for seed in range(10)]
    assert all(finish.judged[2] == 32 for finish in finishes)
    assert np.mean([finish.judged[:2].min() for finish in finishes]) > 350
    assert all(finish.judged[finish.winner] == 512 for finish in finishes)


def test_equal_scores_never_trail() -> None:
    same = np.ones(64)
    assert not trails(same[:32], same, Race(64))
    assert not trails(np.array([0.0]), same, Race(64))


def test_missing_verdicts_take_no_side() -> None:
    best = np.ones(256)
    scores = np.where(np.arange(128) % 2, np.nan, 0.0)
    assert trails(scores, best, Race(256))
    assert not trails(np.full(128, np.nan), best, Race(256))


@pytest.mark.parametrize("runner", [run, run_in_turn])
def test_racing_saves_judge_calls_and_keeps_the_winner(runner: Callable[[np.ndarray, Race], Finish]) -> None:
    finishes, lost = [], []
    race = Race(805)
    for seed in range(200):
        rates = np.random.default_rng(seed).normal(0.5, 0.06, 24).clip(0.05, 0.95)
        scores = field(rates.tolist(), 805, seed)
        finish = runner(scores, race)
        finishes.append(finish)
        lost.append(scores.mean(1).max() - scores[finish.winner].mean())
    assert share(finishes, race) < (0.4 if runner is run else 0.55)
    assert np.mean(lost) < 0.001


def test_a_race_over_another_number_of_prompts_is_refused() -> None:
    with pytest.raises(JudgeError, match="over 10 prompts, got scores of 12"):
        run(np.zeros((2, 12)), Race(10))


class Counting:
    """A quality function that remembers how often it was asked; answers that say so have no quality."""

    def __init__(self) -> None:
        self.asked = 0

    def rate(self, _prompt: Text, answer: str) -> float:
        self.asked += 1
        return float("nan") if answer == "unreadable" else float(len(answer))


def comparisons(answers: list[str]) -> list[Comparison]:
    return [Comparison(f"p{i}", answer, "middling") for i, answer in enumerate(answers)]


def test_what_is_behind_stops_being_judged_and_what_is_not_is_judged_in_full() -> None:
    race = Race(200, block=20)
    quality = Counting()
    bad = judged_until_behind(rule(quality.rate), comparisons(["bad"] * 200), np.ones(200), race)
    judged = [i for i, verdict in enumerate(bad) if verdict is not None]
    assert sorted(race.blocks()[0]) == judged
    assert quality.asked == 2 * 20, "one call for each answer and each opponent's, and none after the first block"
    good = judged_until_behind(rule(Counting().rate), comparisons(["excellent"] * 200), np.ones(200), race)
    assert [verdict.score for verdict in good] == [1.0] * 200  # type: ignore[union-attr]


def test_the_scores_of_the_best_are_matched_prompt_by_prompt() -> None:
    rng = np.random.default_rng(3)
    best = (rng.random(200) < 0.5) * 1.0
    same = comparisons(["excellent" if score else "bad" for score in best])
    assert None not in judged_until_behind(rule(Counting().rate), same, best, Race(200))


def test_failures_count_against_all_prompts_and_not_against_a_block() -> None:
    race = Race(200, block=20)
    few, many = (["excellent"] * 200 for _ in range(2))
    for i in race.blocks()[0][:5]:
        few[i] = "unreadable"
    for i in race.blocks()[0][:11]:
        many[i] = "unreadable"
    found = judged_until_behind(rule(Counting().rate), comparisons(few), np.ones(200), race)
    assert sum(not verdict.parsed for verdict in found if verdict is not None) == 5
    quality = Counting()
    with pytest.raises(JudgeError, match="no verdict on 11 of 200 comparisons"):
        judged_until_behind(rule(quality.rate), comparisons(many), np.ones(200), race)
    assert quality.asked == 2 * 20
