"""Transforms: pure, nested, seeded by content, checked before anything starts."""

import pytest

from raypo.data.overlap import overlap
from raypo.data.records import Demonstration, Labelled, Pair, Ranking
from raypo.data.rewriting import as_kind, demonstrations
from raypo.data.specs import apply_transforms, parse_transforms
from raypo.data.transforms import (
    curriculum,
    factor_common_prefix,
    filter,
    flip_labels,
    fraction,
    lists_to_pairs,
    mix,
    split,
)
from raypo.errors import DataError, StudyError

PAIRS = [Pair(f"prompt {i // 2}", f"good {i}", f"bad {i}", float(i), 0.0) for i in range(200)]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


class TestNesting:
    def test_smaller_fractions_lie_within_larger_ones(self) -> None:
        parts = {share: set(fraction(PAIRS, share=share)) for share in (0.05, 0.25, 0.5, 1.0)}
        assert [len(part) for part in parts.values()] == [10, 50, 100, 200]
        assert parts[0.05] < parts[0.25] < parts[0.5] < parts[1.0]
        assert set(fraction(PAIRS, share=0.5, seed=1)) != parts[0.5]

    def test_more_noise_flips_the_same_rows_and_more(self) -> None:
        flipped = {
            share: {i for i, r in enumerate(flip_labels(PAIRS, share=share)) if r.chosen.startswith("bad")}
            for share in (0.05, 0.2, 0.75)
        }
        assert [len(rows) for rows in flipped.values()] == [10, 40, 150]
        assert flipped[0.05] < flipped[0.2] < flipped[0.75]

    def test_choices_follow_the_row_not_its_place(self) -> None:
        backwards = fraction(PAIRS[::-1], share=0.3)
        assert set(backwards) == set(fraction(PAIRS, share=0.3))
        assert set(flip_labels(PAIRS[::-1], share=0.3)) == set(flip_labels(PAIRS, share=0.3))

    def test_equal_rows_draw_lots_of_their_own(self) -> None:
        """Duplicates would otherwise stand or fall together."""
        doubled = [Pair("p", "a", "b")] * 50 + [Pair("q", "a", "b")] * 50
        flipped = [r.prompt for r in flip_labels(doubled, share=0.5) if r.chosen == "b"]
        assert len(flipped) == 50
        assert 10 < flipped.count("p") < 40

    def test_inputs_stay_as_they_were(self) -> None:
        before = list(PAIRS)
        flip_labels(PAIRS, share=0.5)
        fraction(PAIRS, share=0.5)
        assert before == PAIRS

    def test_volume_and_noise_are_drawn_independently(self) -> None:
        quarter = set(fraction(PAIRS, share=0.25))
        noisy = {p for p, q in zip(PAIRS, flip_labels(PAIRS, share=0.5), strict=True) if p != q}
        assert 15 < len(quarter & noisy) < 35


class TestFlipping:
    def test_scores_and_models_stay_with_their_answers(self) -> None:
        (flipped,) = flip_labels([Pair("p", "a", "b", 2.0, 1.0, "x", "y")], share=1)
        assert flipped == Pair("p", "b", "a", 1.0, 2.0, "y", "x")

    def test_labels_and_lists(self) -> None:
        assert not flip_labels([Labelled("p", "a", True)], share=1)[0].desirable
        assert flip_labels([Ranking("p", ("a", "b", "c"), (1, 2, 5))], share=1)[0].scores == (5, 4, 1)
        with pytest.raises(DataError, match="flip_labels needs a preference, got Demonstration"):
            flip_labels([Demonstration("p", "a")], share=1)


class TestFilter:
    def test_conditions_must_all_hold(self) -> None:
        rows = [Pair("p", "ab", "abc", 3, 1, "m"), Pair("pp", "abcd", "a", 2, 1), Pair("p", "abc", "ab", 1, 1)]
        assert filter(rows, min_chars=2) == [rows[0], rows[2]]
        assert filter(rows, max_chars=3, max_prompt_chars=1) == [rows[0], rows[2]]
        assert filter(rows, min_margin=1) == rows[:2]
        assert filter(rows, min_margin=0.5, max_margin=1) == [rows[1]]
        assert filter(rows, equals={"chosen_model": "m"}) == [rows[0]]

    def test_turns_are_those_of_the_user_in_transcripts_and_conversations(self) -> None:
        once, twice = ({"role": "user", "content": "q"},), ({"role": "user", "content": "q"},) * 2
        transcripts = ("\n\nHuman: q\n\nAssistant:", "\n\nHuman: q\n\nAssistant: a\n\nHuman: r\n\nAssistant:")
        rows = [Pair(prompt, "a", "b") for prompt in ("q", once, transcripts[0], twice, transcripts[1])]
        assert filter(rows, max_turns=1) == rows[:3]
        assert filter(rows, max_turns=2) == rows

    def test_impossible_conditions(self) -> None:
        with pytest.raises(DataError, match="no row of 1 passes"):
            filter([Pair("p", "a", "b")], min_chars=9)
        with pytest.raises(DataError, match=r"x row 1: data.transforms.filter.min_margin needs scores"):
            filter([Pair("p", "a", "b", source="x row 1")], min_margin=0)
        with pytest.raises(DataError, match="no field 'model'; allowed: chosen, "):
            filter([Pair("p", "a", "b")], equals={"model": "m"})


class TestLists:
    LIST = Ranking("p", ("a", "b", "c", "d"), (2.0, 9.0, 5.0, 2.0), ("A", "B", "C", "D"))

    def pairs(self, take: str) -> list[str]:
        return [r.chosen + r.rejected for r in lists_to_pairs([self.LIST], take=take)]

    def test_ways_to_take_pairs(self) -> None:
        assert self.pairs("best_worst") == ["bd"]
        assert self.pairs("best_rest") == ["bc", "ba", "bd"]
        assert self.pairs("all") == ["bc", "ba", "bd", "ca", "cd"], "a and d are a tie"

    def test_scores_and_models_come_along(self) -> None:
        (pair,) = lists_to_pairs([self.LIST])
        assert (pair.margin, pair.chosen_model, pair.rejected_model) == (7.0, "B", "D")

    def test_nothing_but_ties(self) -> None:
        with pytest.raises(DataError, match="all scores of 1 lists are ties"):
            lists_to_pairs([Ranking("p", ("a", "b"), (1, 1))])


class TestCurriculum:
    def test_wide_margins_come_first(self) -> None:
        stages = [r.stage for r in curriculum(PAIRS, stages=4)]
        assert stages == [3] * 50 + [2] * 50 + [1] * 50 + [0] * 50
        assert [r.stage for r in curriculum(PAIRS, stages=4, order="hard_first")] == [3 - s for s in stages]

    def test_short_rows_come_first(self) -> None:
        rows = [Pair("p" * n, "a", "b") for n in (9, 1, 5)]
        assert [r.stage for r in curriculum(rows, by="chars")] == [2, 0, 1]


class TestCommonPrefix:
    def test_whole_words_move_into_the_prompt(self) -> None:
        (pair,) = factor_common_prefix([Pair("Q: ", "I think so too", "I think some")])
        assert (pair.prompt, pair.chosen, pair.rejected) == ("Q: I think", " so too", " some")

    def test_something_is_left_of_every_answer(self) -> None:
        (pair,) = factor_common_prefix([Pair("Q: ", "Yes", "Yes, sure")])
        assert (pair.prompt, pair.chosen, pair.rejected) == ("Q: ", "Yes", "Yes, sure")

    def test_messages(self) -> None:
        shared = (assistant("Hm."), user("And?"))
        before = Pair((user("Q"),), (*shared, assistant("It is so")), (*shared, assistant("It is not")))
        (pair,) = factor_common_prefix([before])
        assert pair.prompt == (user("Q"), *shared, assistant("It is"))
        assert (pair.chosen, pair.rejected) == (" so", " not")


class TestSplitAndMix:
    def test_parts_share_no_prompt_and_cover_everything(self) -> None:
        parts = [split(PAIRS, low=a, high=b) for a, b in ((0, 0.8), (0.8, 0.9), (0.9, 1.0))]
        prompts = [{r.prompt for r in part} for part in parts]
        assert len(set.union(*prompts)) == sum(map(len, prompts)) == 100
        assert sum(map(len, parts)) == 200
        assert 130 < len(parts[0]) < 190

    def test_a_prompt_keeps_its_part_in_other_data(self) -> None:
        here = {r.prompt for r in split(PAIRS, high=0.5)}
        there = {r.prompt for r in split([Labelled(r.prompt, "x", True) for r in PAIRS], low=0.5)}
        assert not here & there

    def test_mix_adds_the_share_asked_for(self) -> None:
        others = [Pair(f"other {i}", "a", "b") for i in range(100)]
        read = {"replay.jsonl": others}
        made = mix(PAIRS, share=0.2, source="replay.jsonl", read=lambda source, **_: read[source])
        assert made[:200] == PAIRS
        assert sum(r.prompt.startswith("other") for r in made) == 50
        assert set(mix(PAIRS, share=0.1, source="replay.jsonl", read=lambda source, **_: read[source])) < set(made)
        with pytest.raises(DataError, match=r"share: 0.5 needs 200 rows of replay.jsonl, got 100; at most 0.333"):
            mix(PAIRS, share=0.5, source="replay.jsonl", read=lambda source, **_: read[source])


class TestKinds:
    PAIR = Pair("p", "a", "b", 2.0, 1.0, "x", "y")

    def test_pairs_serve_every_kind_of_method(self) -> None:
        assert as_kind([self.PAIR], "pairs") == [self.PAIR]
        assert as_kind([self.PAIR], "unpaired") == [
            Labelled("p", "a", True, 2.0, "x"),
            Labelled("p", "b", False, 1.0, "y"),
        ]
        assert as_kind([self.PAIR], "ranked") == [Ranking("p", ("a", "b"), (2.0, 1.0), ("x", "y"))]
        assert as_kind([Pair("p", "a", "b")], "ranked")[0].scores == (1.0, 0.0)
        assert [r.completion for r in as_kind([self.PAIR], "completions")] == ["a"]

    def test_a_flipped_pair_stays_flipped_as_a_list(self) -> None:
        """Its scores stay with the answers and say the opposite; the preference counts, as in training on the pair."""
        (listed,) = as_kind(flip_labels([Pair("p", "good", "bad", 9.0, 1.0)], share=1), "ranked")
        assert (listed.completions, listed.scores) == (("bad", "good"), (1.0, 0.0))

    def test_a_preference_between_equal_scores_is_no_tie_in_a_list(self) -> None:
        assert as_kind([Pair("p", "a", "b", 5.0, 5.0)], "ranked")[0].scores == (1.0, 0.0)

    def test_what_would_invent_preferences_is_refused(self) -> None:
        with pytest.raises(DataError, match="takes pairs data, the rows are ranked; add the transform lists_to_pairs"):
            as_kind([Ranking("p", ("a", "b"), (1, 2))], "pairs")
        with pytest.raises(DataError, match="takes pairs data, the rows are unpaired"):
            as_kind([Labelled("p", "a", True)], "pairs")

    def test_demonstrations_of_the_best_or_of_all(self) -> None:
        listed = Ranking("p", ("a", "b", "c"), (1, 3, 2))
        assert [d.completion for d in demonstrations(listed)] == ["b"]
        assert [d.completion for d in demonstrations(listed, "both")] == ["b", "c", "a"]
        assert [d.completion for d in demonstrations(self.PAIR, "both")] == ["a", "b"]
        assert demonstrations(Labelled("p", "a", False)) == []


class TestSpecs:
    def test_short_and_long_forms_agree(self) -> None:
        short = parse_transforms([{"fraction": 0.5}, {"split": [0, "0.8"]}, "factor_common_prefix"])
        long = parse_transforms(
            [{"fraction": {"share": 0.5, "seed": 0}}, {"split": {"low": 0, "high": 0.8}}, {"factor_common_prefix": {}}]
        )
        assert short == long
        assert apply_transforms(PAIRS, short) == split(fraction(PAIRS, share=0.5), high=0.8)

    def test_transforms_apply_in_order(self) -> None:
        specs = parse_transforms([{"filter": {"min_margin": 100}}, {"fraction": 0.1}])
        assert len(apply_transforms(PAIRS, specs)) == 10
        assert all(r.margin >= 100 for r in apply_transforms(PAIRS, specs))

    def test_all_problems_at_once_each_with_its_path(self) -> None:
        with pytest.raises(StudyError) as caught:
            parse_transforms(
                [
                    {"fractoin": 0.5},
                    {"fraction": 1.5},
                    {"fraction": {"share": 0.5, "sed": 1}},
                    {"lists_to_pairs": "worst"},
                    {"filter": {"min_chars": "many"}},
                    {"mix": {"share": 0.1}},
                    7,
                ]
            )
        lines = str(caught.value).splitlines()
        assert len(lines) == 7
        assert lines[0].startswith("data.transforms[0]: no such transform 'fractoin'; allowed: ")
        assert lines[0].endswith("; did you mean 'fraction'?")
        assert lines[1] == "data.transforms[1].fraction.share: input should be less than or equal to 1, got 1.5"
        assert lines[2] == "data.transforms[2].fraction.sed: no such argument; allowed: share, seed"
        assert "data.transforms[3].lists_to_pairs.take" in lines[3]
        assert "best_worst" in lines[3]
        assert lines[4].startswith("data.transforms[4].filter.min_chars: ")
        assert lines[5].startswith("data.transforms[5].mix.source: field required")
        assert lines[6].startswith("data.transforms[6]: must be one {name: arguments}, got 7")

    def test_an_argument_too_many_is_not_lost(self) -> None:
        with pytest.raises(StudyError, match=r"data.transforms\[0\].split: takes at most 3 values"):
            parse_transforms([{"split": [0, 0.5, 0, 1]}])


class TestOverlap:
    def test_evaluation_prompts_that_occur_in_training_are_counted(self) -> None:
        training = ["What is it?", (user("Tell me  WHY"),), "other"]
        found = overlap(training, ["what is  it", "tell me why!", "never seen"])
        assert (found.shared, found.evaluation, found.examples) == (2, 3, ("what is  it", "tell me why!"))

    def test_none_are_found_where_none_are(self) -> None:
        assert overlap(["a"], ["b"]).shared == 0
