"""The rule judge, the cache of marks, and the templates' readers."""

import errno
import math
import os
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raypo.errors import JudgeError, JudgeUnavailable
from raypo.evaluation.judges import Comparison, Verdict
from raypo.evaluation.judges.cache import MarkCache, SharedLines, content_key
from raypo.evaluation.judges.marks import Mark, Question
from raypo.evaluation.judges.rule import imported, rule
from raypo.evaluation.judges.templates import ALPACA_EVAL, HH, MT_BENCH_PAIR, MT_BENCH_SINGLE, TLDR, Reply
from raypo.evaluation.judges.verdicts import PairJudge, checked, logistic, win_tie_loss


def test_the_rule_judge_scores_wins_ties_and_losses() -> None:
    judge = rule(lambda prompt, answer: len(answer) - len(str(prompt)))
    items = [Comparison("p", "long answer", "short"), Comparison("p", "abc", "xyz"), Comparison("p", "a", "ab")]
    verdicts = judge.judge(items)
    assert [v.score for v in verdicts] == [1, 0.5, 0]
    assert verdicts[0].ratings == (10, 4)


def test_a_rule_is_named_by_import_path() -> None:
    judge = rule("raypo.quickstart.quality:quality")
    assert judge.name == "rule:raypo.quickstart.quality.quality"
    for wrong in ("raypo.quickstart.quality:qualty", "no_such_module:f", "raypo", "raypo:__version__"):
        with pytest.raises(JudgeError, match="judge rule"):
            imported(wrong)


def test_a_quality_that_is_no_number_is_a_failure() -> None:
    with pytest.raises(JudgeError, match="quality is not a number"):
        rule(lambda *_: math.nan).judge([Comparison("p", "a", "b")])


def test_verdicts_from_ratings() -> None:
    assert [win_tie_loss(a, 5.0, tie=0.1) for a in (5.05, 5.2, 4.0)] == [0.5, 1, 0]
    assert logistic(2.0, 0.0) == pytest.approx(1 / (1 + math.exp(-2)))
    assert (logistic(1e4, 0), logistic(0, 1e4)) == (1, 0)


def test_the_commonest_reason_is_named_when_too_many_fail() -> None:
    verdicts = [Verdict(1.0), *[Verdict(math.nan, failure=why) for why in ("late", "odd", "late")]]
    assert checked(verdicts, "j", 0.75) == verdicts
    with pytest.raises(JudgeError, match="no verdict on 3 of 4 comparisons, at most 70% may fail; 2 of them: late"):
        checked(verdicts, "j", 0.7)


def test_an_answer_that_cannot_be_read_is_not_made_up_for_by_one_that_did_not_come() -> None:
    """Two of ten may fail: the search is stopped only where the verdicts that are missing would not be too many."""
    silent, odd = Verdict(math.nan, failure="late", unanswered=True), Verdict(math.nan, failure="odd")
    given = [Verdict(1.0)] * 6
    with pytest.raises(JudgeUnavailable, match=r"no verdict on 4 of 10 comparisons, .*; 2 of them: late"):
        checked([*given, odd, odd, silent, silent], "j", 0.2)
    with pytest.raises(JudgeError) as caught:
        checked([*given, odd, odd, odd, silent], "j", 0.2)
    assert not isinstance(caught.value, JudgeUnavailable)


def test_a_comparison_with_one_unreadable_order_stays_unreadable() -> None:
    class Half:
        name = "half"
        identity: Mapping[str, Any] = {"judge": "half"}

        def compare(self, questions: Sequence[Question]) -> list[Mark]:
            late, odd = Mark(math.nan, "late", unanswered=True), Mark(math.nan, "odd")
            return [late, odd, Mark(1.0), late][: len(questions)]

    verdicts = PairJudge(Half(), max_failed=1).judge([Comparison("p", "a", "b"), Comparison("q", "a", "b")])
    assert [(v.failure, v.unanswered) for v in verdicts] == [("odd", False), ("late", True)]


def _key(name: str) -> str:
    return content_key({"judge": "j"}, name)


def _write(folder: Path, name: str) -> None:
    cache = MarkCache(folder)
    for i in range(50):
        cache.put(_key(f"{name}{i}"), i / 50)


def test_processes_share_marks_without_waiting_for_each_other(tmp_path: Path) -> None:
    context = get_context("fork")
    writers = [context.Process(target=_write, args=(tmp_path, name)) for name in "abc"]
    reader = MarkCache(tmp_path)
    for writer in writers:
        writer.start()
        reader.look_up([_key("a0")])
    for writer in writers:
        writer.join()
    found = reader.look_up(_key(f"{name}{i}") for name in "abc" for i in range(50))
    assert found == {_key(f"{name}{i}"): i / 50 for name in "abc" for i in range(50)}
    _write(tmp_path, "d")
    assert reader.look_up([_key("d49"), _key("absent")]) == {_key("d49"): 0.98}


def test_every_mark_is_found_again_bit_for_bit(tmp_path: Path) -> None:
    """Keys that begin and end with zeros, and marks of every size, asked for in any order."""
    keys = ["00" * 16, "00" * 15 + "01", "01" + "00" * 15, "ff" * 16, *(_key(str(i)) for i in range(100))]
    marks = dict(zip(keys, [0.0, -1e300, 5e-324, 1 / 3, *np.random.default_rng(0).normal(size=100)], strict=True))
    cache = MarkCache(tmp_path)
    assert cache.look_up(keys) == {}
    for i, (key, mark) in enumerate(marks.items()):
        cache.put(key, mark)
        assert list(cache.look_up(keys)) == keys[: i + 1]
    assert cache.look_up(reversed(keys)) == MarkCache(tmp_path).look_up(keys) == marks


@pytest.mark.parametrize("kept", [0, 12, 16, 20, 31])
def test_a_mark_that_a_crash_tore_is_none(tmp_path: Path, kept: int) -> None:
    """A part of it at the end of its file, or zeros in place of what did not reach the disk."""
    cache = MarkCache(tmp_path)
    cache.put(_key("whole"), 0.25)
    cache.put(_key("torn"), 0.75)
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    file.write_bytes(content[: 32 + kept])
    assert MarkCache(tmp_path).look_up([_key("whole"), _key("torn")]) == {_key("whole"): 0.25}
    file.write_bytes(content[: 32 + kept].ljust(96, b"\0"))
    assert MarkCache(tmp_path).look_up([_key("whole"), _key("torn"), "00" * 16]) == {_key("whole"): 0.25}


def test_a_line_that_was_never_finished_is_not_read_until_it_is(tmp_path: Path) -> None:
    file = tmp_path / "1.jsonl"
    file.write_text('["a", 1.0]\n["b", 0.')
    lines = SharedLines(tmp_path)
    assert list(lines.new()) == [["a", 1.0]]
    with file.open("a") as more:
        more.write("5]\n")
    assert list(lines.new()) == [["b", 0.5]]
    assert list(lines.new()) == []
    assert os.listdir(tmp_path) == ["1.jsonl"]


def test_a_line_that_a_full_disk_tore_is_passed_over_and_none_is_written_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torn.jsonl").write_text('["a", 0.["b", 1.0]\n["c", 1.0]\n')
    assert list(SharedLines(tmp_path).new()) == [["c", 1.0]]
    lines, opened = SharedLines(tmp_path / "own"), Path.open

    def full(path: Path, *how: Any) -> Any:
        file = opened(path, *how)
        file.write(b'["torn", ')
        file.close()
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", full)
        with pytest.raises(OSError, match="No space"):
            lines.append(["d", 0.0])
    lines.append(["e", 1.0])
    assert list(SharedLines(tmp_path / "own").new()) == [["e", 1.0]]


def test_keys_know_order_judge_and_texts() -> None:
    keys = {
        content_key({"judge": judge}, [prompt, first, second])
        for judge in "jk" for prompt in "pq" for first, second in ("ab", "ba")
    }  # fmt: skip
    assert len(keys) == 8


@pytest.mark.parametrize(
    ("template", "text", "value"),
    [
        (HH, "Comparison: A is longer.\nMore helpful: B", 0),
        (HH, "Comparison: x\n**More helpful:** A\n", 1),
        (HH, "More helpful: A\nOn reflection:\nMore helpful: B", 0),
        (HH, "more helpful: Answer A.", 1),
        (HH, "More helpful: A or B", None),
        (HH, "More helpful: a tie", None),
        (HH, "A", None),
        (TLDR, "Comparison: both fine\nPreferred: A", 1),
        (TLDR, "More helpful: A", None),
        (ALPACA_EVAL, "M", 0),
        (ALPACA_EVAL, "model m", None),
        (MT_BENCH_PAIR, "so [[B]]", 0),
        (MT_BENCH_PAIR, "so [B]", None),
        (MT_BENCH_SINGLE, "Rating: [[7.5]]", 7.5),
        (MT_BENCH_SINGLE, "Rating: [[11]]", None),
        (MT_BENCH_SINGLE, "Rating: 7", None),
    ],
)
def test_replies_are_read_or_counted_as_unreadable(template: Any, text: str, value: float | None) -> None:
    assert template.read(Reply(text)) == value


def test_both_spellings_of_a_verdict_token_share_its_mass() -> None:
    reply = Reply("m", {"m": math.log(0.3), " m": math.log(0.3), "M": math.log(0.2)})
    assert ALPACA_EVAL.read(reply) == pytest.approx(0.75)


def test_texts_that_spell_placeholders_or_fences_stay_texts() -> None:
    user = HH.messages(prompt="{first} {second}", first="[end first 00000000]", second="{prompt}")[1]["content"]
    assert user.count("{first} {second}") == 1
    assert user.count("{prompt}") == 1
    assert user.count("[end first 00000000]") == 1
    again = HH.messages(prompt="{first} {second}", first="[end first 00000000]", second="{prompt}")[1]["content"]
    assert user == again
