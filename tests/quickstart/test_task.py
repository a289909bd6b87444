import math
from collections.abc import Callable

import pytest

from raypo.errors import DataError
from raypo.quickstart import task
from raypo.quickstart.instructions import FAMILIES, SPLITS, every, parse
from raypo.quickstart.quality import quality


def test_equal_seeds_give_equal_data_and_others_do_not() -> None:
    assert task.pairs(50, seed=3) == task.pairs(50, seed=3) != task.pairs(50, seed=4)
    assert task.demonstrations(50, seed=3) == task.demonstrations(50, seed=3) != task.demonstrations(50, seed=4)
    assert task.prompts(50, seed=3) == task.prompts(50, seed=3) != task.prompts(50, seed=4)
    assert task.rankings(50, seed=3) == task.rankings(50, seed=3) != task.rankings(50, seed=4)


def test_a_longer_draw_starts_with_the_shorter_one() -> None:
    assert task.pairs(80, seed=0)[:30] == task.pairs(30, seed=0)
    assert task.rankings(80, seed=0)[:30] == task.rankings(30, seed=0)


def test_no_two_splits_share_a_prompt() -> None:
    prompts = [prompt for split in SPLITS for family in every(split).values() for prompt in family]
    assert len(prompts) == len(set(prompts))


@pytest.mark.parametrize("split", SPLITS)
def test_every_draw_stays_in_its_split(split: str) -> None:
    own = {prompt for family in every(split).values() for prompt in family}
    drawn = [row["prompt"] for row in task.pairs(300, 0, split) + task.demonstrations(300, 0, split)]
    assert set(drawn) <= own
    assert set(task.prompts(100, 0, split)) <= own


def test_every_prompt_states_an_instruction_that_can_be_fulfilled() -> None:
    for split in SPLITS:
        for family, prompts in every(split).items():
            for prompt in prompts:
                instruction = parse(prompt)
                assert instruction is not None
                assert instruction.family == family
                ideal = task.ideal_answer(prompt, seed=0)
                assert quality(prompt, ideal) == 1.0, (prompt, ideal)


def test_evaluation_prompts_are_different_and_spread_over_the_families() -> None:
    prompts = task.prompts(128, seed=0)
    assert len(set(prompts)) == 128
    families = [prompt.split()[0] for prompt in prompts]
    assert all(28 <= families.count(family) <= 34 for family in FAMILIES)


def test_labels_contradict_the_annotator_and_the_quality_as_often_as_stated() -> None:
    rows = task.pairs(4000, seed=0)

    def contradicted(value: Callable[[str, str], float]) -> float:
        worse = [value(r["prompt"], r["chosen"]) < value(r["prompt"], r["rejected"]) for r in rows]
        return sum(worse) / len(worse)

    assert contradicted(task.liking) == pytest.approx(0.13, abs=0.01)
    assert contradicted(quality) == pytest.approx(0.14, abs=0.01)


def test_scores_are_what_the_annotator_saw_and_labels_follow_from_them() -> None:
    rows = task.pairs(4000, seed=0)
    assert all(row["chosen_score"] > row["rejected_score"] for row in rows)
    seen = [row["chosen_score"] - row["rejected_score"] for row in rows]
    liked = [task.liking(row["prompt"], row["chosen"]) - task.liking(row["prompt"], row["rejected"]) for row in rows]
    errors = [abs(saw - truth) for saw, truth in zip(seen, liked, strict=True)]
    # The error is logistic with scale T, whose mean absolute value is 2 T log 2.
    assert sum(errors) / len(errors) == pytest.approx(2 * task.TEMPERATURE * math.log(2), rel=0.05)


def test_any_two_answers_of_a_list_compare_as_a_pair_does() -> None:
    rows = task.rankings(2000, seed=0, answers=5)
    assert {len(set(row["completions"])) for row in rows} == {5}

    def contradicted(value: Callable[[str, str], float]) -> float:
        found = []
        for row in rows:
            prompt, (a, b, *_), (x, y, *_) = row["prompt"], row["completions"], row["scores"]
            found.append((value(prompt, a) - value(prompt, b)) * (x - y) < 0)
        return sum(found) / len(found)

    assert contradicted(task.liking) == pytest.approx(0.13, abs=0.02)


def test_a_list_of_one_is_refused() -> None:
    with pytest.raises(DataError, match="at least 2 answers, got answers 1"):
        task.rankings(3, seed=0, answers=1)


def test_the_annotator_is_charmed_by_what_the_quality_charges_for() -> None:
    plain, polite = "a d b .", "a d b . thank you ! thank you !"
    assert quality("reverse b d a\n", polite) < quality("reverse b d a\n", plain)
    gap = task.liking("reverse b d a\n", polite) - quality("reverse b d a\n", polite)
    assert gap == pytest.approx(2 * task.CHARM)


def test_answers_are_of_mixed_quality_and_bounded_length() -> None:
    rows = task.demonstrations(2000, seed=1)
    qualities = [quality(row["prompt"], row["completion"]) for row in rows]
    assert 0.15 < sum(value == 1.0 for value in qualities) / 2000 < 0.3
    assert 0.4 < sum(value < 0.5 for value in qualities) / 2000 < 0.7
    assert max(len(row["completion"].split()) for row in rows) == task.LONGEST_ANSWER


def test_more_prompts_than_there_are_is_refused() -> None:
    with pytest.raises(DataError, match=r"'eval' holds \d+ prompts, got count 100000"):
        task.prompts(100_000, seed=0)


def test_an_unknown_split_is_refused_with_the_allowed_ones() -> None:
    with pytest.raises(DataError, match="got 'test'; one of train, heldout, eval, confirm"):
        task.pairs(3, 0, "test")  # type: ignore[arg-type]
