"""Tokens: real merges at the boundary, BOS once, ends kept unless cut and never invented, masks by position."""

import random
from pathlib import Path

import numpy as np
import pytest

from raypo.data.records import Demonstration, Labelled, Pair, Ranking
from raypo.data.tokenise import encode_prompt, tokenise
from raypo.data.tokens import TokenSet
from raypo.data.truncation import TRUNCATIONS, Limits
from raypo.errors import DataError

ROOMY = Limits(512)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def scored(tokens: TokenSet, s: int, tokenizer) -> str:
    """Text of the scored tokens of a sequence, special tokens shown."""
    span = slice(tokens.offsets[s], tokens.offsets[s + 1])
    return tokenizer.decode(tokens.ids[span][tokens.mask[span]], skip_special_tokens=False)


def whole(tokens: TokenSet, s: int, tokenizer) -> str:
    return tokenizer.decode(tokens.sequence(s), skip_special_tokens=False)


def words_of(prefix: str, n: int) -> str:
    return "".join(f" {prefix}{i}" for i in range(n))


class TestBoundary:
    def test_a_merge_across_the_boundary_belongs_to_the_answer(self, merging) -> None:
        """'capital' is one token or few; cut inside the word, the joint tokens are those of the whole text."""
        tokens = tokenise([Pair("What is the cap", "ital of France", "ble? no")], merging, ROOMY)
        for s, text in enumerate(["What is the capital of France", "What is the capble? no"]):
            assert tokens.sequence(s).tolist() == merging(text)["input_ids"] + [merging.eos_token_id]
        assert len(merging("What is the cap")["input_ids"]) > tokens.prompt_lengths[0], "the merge must be a real one"
        assert scored(tokens, 0, merging).endswith("ital of France<eos>")
        assert tokens.report["boundary_moved"] == 1

    def test_random_texts_keep_the_boundary_laws(self, merging) -> None:
        """Tokens of the joint text; one prompt for both answers; all of an answer scored."""
        draw = random.Random(0)
        letters = "  \n\naeiou capital of France? The egg Human: Assistant: é漢"
        texts = ["".join(draw.choice(letters) for _ in range(draw.randint(1, 40))) for _ in range(600)]
        records = [Pair(p, c, r) for p, c, r in zip(texts[::3], texts[1::3], texts[2::3], strict=True) if c != r]
        tokens = tokenise(records, merging, ROOMY)
        for e, i in enumerate(tokens.record):
            pair, rows = records[i], tokens.examples[e]
            first, second = (tokens.sequence(s) for s in rows)
            n = tokens.prompt_lengths[rows[0]]
            assert n == tokens.prompt_lengths[rows[1]]
            assert first[:n].tolist() == second[:n].tolist()
            for s, answer in zip(rows, pair.completions, strict=True):
                joint = [*merging(pair.prompt + answer)["input_ids"], merging.eos_token_id]
                assert tokens.sequence(s)[-len(joint) :].tolist() == joint
                assert tokens.lengths[s] - len(joint) in (0, 1), "1: the prompt merged away, so <eos> was put before"
                assert scored(tokens, s, merging).removesuffix("<eos>").endswith(answer) or "�" in scored(
                    tokens, s, merging
                )
                assert tokens.mask[tokens.offsets[s] : tokens.offsets[s + 1]].tolist() == [
                    t >= n for t in range(tokens.lengths[s])
                ]
        assert 0 < tokens.report["boundary_moved"] < len(records)

    def test_an_empty_prompt_begins_with_a_special_token(self, merging) -> None:
        tokens = tokenise([Demonstration("", "The egg")], merging, ROOMY)
        assert whole(tokens, 0, merging) == "<eos>The egg<eos>"
        assert tokens.prompt_lengths[0] == 1


class TestSpecialTokens:
    def test_bos_once_whoever_writes_it(self, bos_bpe, chat) -> None:
        plain = tokenise([Pair("Tell me", " yes", " no"), Pair("<s>Tell me", " good", " bad")], bos_bpe, ROOMY)
        turns = tokenise([Pair((user("Tell me"),), (assistant("yes"),), (assistant("no"),))], chat, ROOMY)
        for tokens, tokenizer in ((plain, bos_bpe), (turns, chat)):
            for s in range(len(tokens.offsets) - 1):
                ids = tokens.sequence(s).tolist()
                assert ids[0] == tokenizer.bos_token_id
                assert ids.count(tokenizer.bos_token_id) == 1

    def test_a_template_without_bos_gets_none(self, chat) -> None:
        """The template is the model's own word on how conversations begin, as when it is sampled from."""
        bare = chat.chat_template.removeprefix("{{ bos_token }}")
        tokens = tokenise([Demonstration((user("Tell me"),), (assistant("yes"),))], chat, ROOMY, chat_template=bare)
        assert whole(tokens, 0, chat).startswith("<|im_start|>user")

    def test_raypos_own_template_leaves_bos_to_the_tokenizer(self, bos_bpe, bpe) -> None:
        """It is for models that bring no template, and those expect BOS as before plain text, once."""
        begun = (user("Tell me"), assistant("So"))
        rows = [Demonstration("Tell me", "yes"), Demonstration(begun, "yes"), Demonstration("<s>Tell me", "yes")]
        tokens = tokenise(rows, bos_bpe, ROOMY, chat_template="transcript")
        for s, row in enumerate(rows):
            ids = tokens.sequence(s).tolist()
            assert (ids[0], ids[1:].count(bos_bpe.bos_token_id)) == (bos_bpe.bos_token_id, s == 2), "the text's"
            prompt = encode_prompt(bos_bpe, row.prompt, "transcript")
            assert prompt == ids[: tokens.prompt_lengths[s]]
        assert whole(tokens, 0, bos_bpe) == "<s>\n\nHuman: Tell me\n\nAssistant: yes</s>"
        without = tokenise(rows[:1], bpe, ROOMY, chat_template="transcript")
        assert whole(without, 0, bpe) == "\n\nHuman: Tell me\n\nAssistant: yes<eos>"

    def test_the_end_comes_once_and_is_scored(self, bos_bpe) -> None:
        tokens = tokenise([Pair("Tell me", " yes", " no</s>")], bos_bpe, ROOMY)
        assert scored(tokens, 0, bos_bpe) == " yes</s>"
        assert scored(tokens, 1, bos_bpe) == " no</s>"

    def test_a_pad_token_inside_an_answer_is_scored_like_any_other(self, bpe) -> None:
        """pad and eos are one id here: a mask by id would lose both."""
        tokens = tokenise([Demonstration("question", " yes<eos>no")], bpe, ROOMY)
        assert scored(tokens, 0, bpe) == " yes<eos>no<eos>"

    def test_a_step_in_the_middle_ends_nothing(self, bpe, chat) -> None:
        step = Pair("1 + 1 + 1:\n", "1 + 1 = 2", "1 + 1 = 3", final=False)
        assert scored(tokenise([step], bpe, ROOMY), 0, bpe) == "1 + 1 = 2"
        begun = (user("1 + 1 + 1"), assistant("So\n"))
        turn = Pair(begun, "1 + 1 = 2", "1 + 1 = 3", final=False)
        tokens = tokenise([turn], chat, ROOMY)
        assert scored(tokens, 0, chat) == "1 + 1 = 2"
        assert "<|im_end|>\n<|im_start|>assistant\nSo\n1 + 1 = 2" in whole(tokens, 0, chat)

    def test_sampling_prompts_are_the_training_prompts(self, bos_bpe, chat) -> None:
        for tokenizer, prompt, answer in (
            (bos_bpe, "Tell me", " yes"),
            (chat, (user("Tell me"),), (assistant("yes"),)),
        ):
            tokens = tokenise([Demonstration(prompt, answer)], tokenizer, ROOMY)
            assert encode_prompt(tokenizer, prompt) == tokens.sequence(0)[: tokens.prompt_lengths[0]].tolist()


class TestConversations:
    def test_the_template_decides_and_the_end_of_turn_is_scored(self, chat) -> None:
        tokens = tokenise([Pair((user("Tell me"),), (assistant("yes"),), (assistant("no"),))], chat, ROOMY)
        assert whole(tokens, 0, chat) == "<s><|im_start|>user\nTell me<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>"
        assert scored(tokens, 0, chat) == "yes<|im_end|>"
        assert tokens.unit is None

    def test_only_the_assistant_is_scored_turn_by_turn(self, chat) -> None:
        dialogue = (assistant("yes"), user("question"), assistant("no"))
        tokens = tokenise([Demonstration((user("Tell me"),), dialogue)], chat, ROOMY)
        span, turns = tokens.ids, tokens.unit
        assert scored(tokens, 0, chat) == "yes<|im_end|>no<|im_end|>"
        assert chat.decode(span[turns == 0]) == "yes<|im_end|>"
        assert chat.decode(span[turns == 1]) == "no<|im_end|>"
        assert (turns[~tokens.mask] == -1).all()

    def test_an_answer_that_goes_on_inside_a_turn_is_scored_to_its_end(self, chat) -> None:
        """The question's last turn is begun by the prompt; what follows the turn belongs to the answer too."""
        dialogue = (assistant(" yes"), user("question"), assistant("no"))
        tokens = tokenise([Demonstration((user("Tell me"), assistant("So")), dialogue)], chat, ROOMY)
        assert whole(tokens, 0, chat).endswith(
            "assistant\nSo yes<|im_end|>\n<|im_start|>user\nquestion<|im_end|>\n<|im_start|>assistant\nno<|im_end|>"
        )
        assert chat.decode(tokens.ids[tokens.unit == 0]) == " yes<|im_end|>"
        assert chat.decode(tokens.ids[tokens.unit == 1]) == "no<|im_end|>"

    @pytest.mark.parametrize("prompt", ["\n\nHuman: \n\nAssistant:", "\n\nHuman:\n\nAssistant:"])
    def test_a_dialogue_that_says_nothing_is_named(self, chat, prompt: str) -> None:
        with pytest.raises(DataError, match="x row 7: a prompt for a chat template needs a turn that says something"):
            tokenise([Demonstration(prompt, " yes", source="x row 7")], chat, ROOMY, chat_template="default")
        with pytest.raises(DataError, match="prompt: a prompt for a chat template needs a turn"):
            encode_prompt(chat, prompt, "default")

    def test_answers_may_part_at_a_users_turn(self, chat) -> None:
        shared = (user("Tell me"), assistant("yes"))
        pair = Pair(shared, (user("good"), assistant("yes")), (user("bad"), assistant("no")))
        tokens = tokenise([pair], chat, ROOMY)
        assert scored(tokens, 0, chat) == "yes<|im_end|>"
        assert scored(tokens, 1, chat) == "no<|im_end|>"
        first, second = tokens.sequence(0), tokens.sequence(1)
        n = tokens.prompt_lengths[0]
        assert first[:n].tolist() == second[:n].tolist()

    def test_transcripts_score_the_assistant_only(self, bpe) -> None:
        answer = " yes\n\nHuman: question\n\nAssistant: no"
        tokens = tokenise([Demonstration("\n\nHuman: Tell me\n\nAssistant:", answer)], bpe, ROOMY)
        assert bpe.decode(tokens.ids[tokens.unit == 0]) + bpe.decode(tokens.ids[tokens.unit == 1]) == " yes no<eos>"

    def test_the_transcript_template_writes_hh(self, bpe) -> None:
        text = Demonstration("\n\nHuman: Tell me\n\nAssistant:", " yes")
        turns = Demonstration((user("Tell me"),), (assistant("yes"),))
        plain = tokenise([text], bpe, ROOMY)
        for record in (text, turns):
            made = tokenise([record], bpe, ROOMY, chat_template="transcript")
            assert made.ids.tolist() == plain.ids.tolist()
            assert made.mask.tolist() == plain.mask.tolist()

    def test_strings_are_wrapped_only_when_asked(self, chat) -> None:
        record = Demonstration("Tell me", "yes")
        assert "im_start" not in whole(tokenise([record], chat, ROOMY), 0, chat)
        wrapped = tokenise([record], chat, ROOMY, chat_template="default")
        assert whole(wrapped, 0, chat).startswith("<s><|im_start|>user\nTell me")

    def test_a_plain_question_is_asked_as_a_conversation_begins_with_the_default_template(self, chat) -> None:
        turns = encode_prompt(chat, (user("Tell me"),))
        assert encode_prompt(chat, "Tell me", "default") == turns
        assert encode_prompt(chat, "Tell me") != turns

    def test_a_template_that_thinks_first_moves_the_boundary(self, chat) -> None:
        """Some templates write an empty thought before a finished answer that a prompt for one does not have."""
        thinking = (
            "{% for m in messages %}<|im_start|>{{ m.role }}\n"
            "{% if m.role == 'assistant' %}<think></think>{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
        )
        tokens = tokenise([Demonstration((user("Tell me"),), (assistant("yes"),))], chat, ROOMY, chat_template=thinking)
        assert scored(tokens, 0, chat) == "<think></think>yes<|im_end|>"

    def test_a_template_that_rewrites_history_is_refused_for_many_turns(self, chat) -> None:
        rewriting = "{% for m in messages %}{{ m.content if loop.last else '...' }}<|im_end|>{% endfor %}"
        record = Demonstration((user("a"),), (assistant("b"), user("c"), assistant("d")), source="x.jsonl row 3")
        with pytest.raises(DataError, match=r"x.jsonl row 3: the chat template renders"):
            tokenise([record], chat, ROOMY, chat_template=rewriting)

    def test_a_conversation_that_the_template_refuses_is_named(self, chat) -> None:
        strict = "{{ raise_exception('no system turn') if messages[0].role == 'system' else messages[0].content }}"
        record = Demonstration(({"role": "system", "content": "a"}, user("b")), (assistant("c"),), source="x row 7")
        with pytest.raises(DataError, match="x row 7: the chat template refuses this conversation, no system turn"):
            tokenise([record], chat, ROOMY, chat_template=strict)

    def test_conversations_need_a_template(self, bpe) -> None:
        with pytest.raises(DataError, match="tokenizer has no chat template"):
            tokenise([Demonstration((user("a"),), (assistant("b"),))], bpe, ROOMY)


class TestTruncation:
    PAIR = Pair(words_of("p", 6), words_of("c", 4), words_of("r", 2))

    def cut(self, words, limits: Limits) -> tuple[str, str, TokenSet]:
        tokens = tokenise([self.PAIR], words, limits)
        return whole(tokens, 0, words), whole(tokens, 1, words), tokens

    def test_what_fits_stays_whole(self, words) -> None:
        for way in TRUNCATIONS:
            chosen, rejected, tokens = self.cut(words, Limits(11, truncation=way))
            assert chosen == "p0 p1 p2 p3 p4 p5 c0 c1 c2 c3 <eos>"
            assert rejected == "p0 p1 p2 p3 p4 p5 r0 r1 <eos>"
            assert not any("truncated" in name for name in tokens.report)

    def test_prompt_start(self, words) -> None:
        chosen, rejected, tokens = self.cut(words, Limits(9))
        assert (chosen, rejected) == ("p2 p3 p4 p5 c0 c1 c2 c3 <eos>", "p2 p3 p4 p5 r0 r1 <eos>")
        assert tokens.report["truncated/prompt_start"] == 1
        assert "truncated/completion_end" not in tokens.report

    def test_prompt_end(self, words) -> None:
        chosen, _, tokens = self.cut(words, Limits(9, truncation="prompt_end"))
        assert chosen == "p0 p1 p2 p3 c0 c1 c2 c3 <eos>"
        assert tokens.report["truncated/prompt_end"] == 1

    def test_the_answer_is_cut_when_the_prompt_has_given_half(self, words) -> None:
        chosen, rejected, tokens = self.cut(words, Limits(6))
        assert (chosen, rejected) == ("p3 p4 p5 c0 c1 c2", "p3 p4 p5 r0 r1 <eos>")
        assert tokens.report["truncated/completion_end"] == 1, "only the chosen answer was cut"

    def test_a_cut_answer_never_ends(self, words) -> None:
        for limits, left in (
            (Limits(6, truncation="prompt_start"), "p3 p4 p5 c0 c1 c2"),
            (Limits(6, truncation="prompt_end"), "p0 p1 p2 c0 c1 c2"),
            (Limits(10, truncation="completion_end"), "p0 p1 p2 p3 p4 p5 c0 c1 c2 c3"),
        ):
            chosen, rejected, _ = self.cut(words, limits)
            assert chosen == left
            assert rejected.endswith("r0 r1 <eos>"), "what is left whole ends as ever"

    def test_max_prompt_length_holds_even_where_there_is_room(self, words) -> None:
        chosen, _, tokens = self.cut(words, Limits(30, max_prompt_length=2))
        assert chosen == "p4 p5 c0 c1 c2 c3 <eos>"
        assert tokens.report["truncated/prompt_start"] == 1

    def test_completion_end_leaves_prompts_alone(self, words) -> None:
        chosen, rejected, tokens = self.cut(words, Limits(8, truncation="completion_end"))
        assert (chosen, rejected) == ("p0 p1 p2 p3 p4 p5 c0 c1", "p0 p1 p2 p3 p4 p5 r0 r1")
        assert tokens.report["truncated/completion_end"] == 2

    def test_dropped_rows_are_counted_by_reason(self, words) -> None:
        short = Pair("p0", " c0", " r0")
        report = tokenise([self.PAIR, short], words, Limits(9, truncation="drop")).report
        assert (report["dropped/too_long"], report["examples"], report["records"]) == (1, 1, 2)
        report = tokenise([self.PAIR, short], words, Limits(9, 4, "completion_end")).report
        assert report["dropped/prompt_too_long"] == 1
        report = tokenise([Pair("p0", " c1", " c1"), short], words, ROOMY).report
        assert report["dropped/equal_answers"] == 1
        with pytest.raises(DataError, match="nothing is left of 1 records"):
            tokenise([self.PAIR], words, Limits(9, truncation="drop"))

    def test_bos_survives_a_cut_at_the_start(self, bos_bpe) -> None:
        text = "How do I boil an egg? Put the egg in boiling water for eight minutes. " * 3
        tokens = tokenise([Pair(text, "yes", "no")], bos_bpe, Limits(12))
        assert tokens.lengths[0] <= 12
        assert tokens.sequence(0)[0] == bos_bpe.bos_token_id
        assert tokens.sequence(0)[1] != bos_bpe.bos_token_id

    def test_impossible_limits_are_refused(self) -> None:
        for limits, message in (
            ((256, 256), "max_prompt_length: must lie in 1..255"),
            ((1,), "max_length: needs room"),
            ((9, 4, "middle"), "allowed: prompt_start, prompt_end"),
        ):
            with pytest.raises(DataError, match=message):
                Limits(*limits)


class TestSets:
    def test_kinds_keep_labels_scores_and_groups(self, words) -> None:
        labelled = tokenise([Labelled("p0", " c0", True, score=3), Labelled("p1", " c1", False)], words, ROOMY)
        assert labelled.kind == "unpaired"
        assert labelled.desirable.tolist() == [True, False]
        assert labelled.score[0] == 3
        assert np.isnan(labelled.score[1])
        lists = [Ranking("p0", (" c0", " c1", " c2"), (1, 3, 2)), Ranking("p1", (" c0", " c1"), (5, 4))]
        ranked = tokenise(lists, words, ROOMY)
        assert ranked.examples.tolist() == [[0, 1, 2], [3, 4, -1]]
        assert ranked.score.tolist() == [1, 3, 2, 5, 4]
        assert ranked.example_lengths().tolist() == [1 + 3 * 2, 1 + 2 * 2]

    def test_mixed_kinds_are_refused(self, words) -> None:
        with pytest.raises(DataError, match="one kind"):
            tokenise([Pair("p0", " c0", " r0"), Labelled("p0", " c0", True)], words, ROOMY)

    def test_saved_and_loaded_sets_are_equal_and_mapped(self, words, tmp_path: Path) -> None:
        tokens = tokenise([Labelled("p0", " c0", True), Labelled("p1", " c1 c2", False)], words, ROOMY)
        tokens.save(tmp_path / "set")
        again = TokenSet.load(tmp_path / "set")
        for name, value in vars(tokens).items():
            np.testing.assert_equal(getattr(again, name), value, err_msg=name)
        assert again.ids.flags.writeable is False
        with pytest.raises(DataError, match="json is missing"):
            TokenSet.load(tmp_path / "nothing")


def test_3038_hh_pairs_take_seconds(hh, bpe) -> None:
    records, tokens, cpu_s = hh
    assert cpu_s < 10
    assert tokens.report["examples"] == len(records) == 3038
    record = records[tokens.record[100]]
    assert whole(tokens, tokens.examples[100, 0], bpe) == record.prompt + record.chosen + "<eos>"
