import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raypo.evaluation.completions import append, read
from raypo.evaluation.judges import Comparison, Verdict
from raypo.evaluation.judges.rule import rule
from raypo.evaluation.kl import divergence
from raypo.evaluation.objective import Evaluation, Limits, Opponent, diverged, evaluate
from raypo.evaluation.sampling import Completion


def completion(i: int, text: str, truncated: bool = False) -> Completion:
    tokens = tuple(int.from_bytes(word.encode(), "big") for word in text.split())
    return Completion(f"p{i}", text, tokens, truncated, i, (1,))


def evaluation(texts: list[str], others: list[str], drift: float = 0.5) -> Evaluation:
    completions = [completion(i, text, truncated=i == 0) for i, text in enumerate(texts)]
    judge = rule(lambda _, answer: float(len(answer.split())))
    items = [Comparison(c.prompt, c.text, other) for c, other in zip(completions, others, strict=True)]
    kl = divergence([np.array([0.0])] * len(texts), [np.array([-drift])] * len(texts))
    opponent = Opponent("start", others, [len(o.split()) for o in others])
    return evaluate(completions, opponent, judge.judge(items), kl, judge=judge.name)


def test_one_flat_result_holds_the_win_rate_and_what_surrounds_it() -> None:
    found = evaluation(["a b c", "d e", "f", "g h i j"], ["x", "y z", "v w", "u"])
    flat = found.flat()
    assert flat["win_rate"] == 0.625
    assert (flat["n"], flat["opponent"]) == (4, "start")
    assert str(flat["judge"]).startswith("rule:")
    assert flat["ci_low"] < 0.625 < flat["ci_high"]  # type: ignore[operator]
    assert flat["lc_ci_low"] < flat["lc_win_rate"] < flat["lc_ci_high"]  # type: ignore[operator]
    assert (flat["kl"], flat["score"], flat["length"]) == (0.5, 2.5, 2.5)
    assert flat["kl_k3"] == pytest.approx(math.exp(-0.5) - 1 + 0.5)
    assert flat["length_ratio"] == pytest.approx(10 / 6)
    assert (flat["truncated"], flat["commonest"], flat["repeated"]) == (0.25, 0.25, 0)
    assert all(value == value for value in flat.values())


def test_a_policy_far_from_its_reference_has_diverged() -> None:
    found = evaluation(["a b", "c d"], ["x", "y"], drift=30.0)
    assert diverged(found, Limits()) is None
    assert diverged(found, Limits(kl=20)) == "kl: KL to the reference, nats per answer is 30, the limit is 20"
    assert "length_ratio" in str(diverged(found, Limits(length_ratio=1.5)))


@pytest.mark.parametrize(
    ("texts", "name"),
    [(["same words"] * 20, "commonest"), ([""] * 20, "empty"), ([f"{i} " + "z " * 40 for i in range(20)], "repeated")],
)
def test_collapsed_text_has_diverged(texts: list[str], name: str) -> None:
    found = evaluation(texts, ["x"] * 20)
    assert name in str(diverged(found, Limits()))


def test_a_divergence_that_is_no_number_counts_as_diverged() -> None:
    found = evaluation(["a b", "c d"], ["x", "y"], drift=math.nan)
    assert str(diverged(found, Limits(kl=20))).startswith("kl:")


def test_completions_are_kept_by_fraction_and_an_evaluation_run_again_is_stored_once(tmp_path: Path) -> None:
    path = tmp_path / "completions.parquet"
    verdicts = [Verdict(0.75, orders=(1.0, 0.5)), Verdict(math.nan, failure="unread", ratings=(2.0, 1.0))]
    kept: dict[str, Any] = {
        "prompts": ["p", ({"role": "user", "content": "hello"},)], "answers": ["a", "b\n\u00fc"],
        "opponents": ["x", "y"], "verdicts": verdicts, "judge": "j",
    }  # fmt: skip
    append(path, fraction=0.5, **kept)
    append(path, fraction=1.0, **kept)
    append(path, fraction=0.5, **{**kept, "answers": ["new", "b"]})
    assert [row.fraction for row in read(path)] == [1.0, 1.0, 0.5, 0.5]
    first, second = read(path, 1.0)
    assert (first.prompt, first.answer, first.opponent, first.score, first.judge) == ("p", "a", "x", 0.75, "j")
    assert (first.shown_first, first.shown_second, first.failure) == (1.0, 0.5, None)
    assert second.prompt == "User: hello"
    assert second.answer == "b\n\u00fc"
    assert math.isnan(second.score)
    assert (second.rating, second.opponent_rating, second.failure) == (2.0, 1.0, "unread")
    assert [row.answer for row in read(path, 0.5)] == ["new", "b"]
    assert [p.name for p in tmp_path.iterdir()] == ["completions.parquet"]


def test_answers_are_on_the_disk_before_they_have_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a machine without power keeps the record of an evaluation, which is not made again, and not its answers."""
    path, sync, kept = tmp_path / "completions.parquet", os.fsync, list[int]()

    def synced(file: int) -> None:
        sync(file)
        kept.append(os.fstat(file).st_size)
        assert not path.exists()

    monkeypatch.setattr(os, "fsync", synced)
    append(path, fraction=1.0, prompts=["p"], answers=["a"], opponents=["x"], verdicts=[Verdict(1.0)], judge="j")
    assert kept == [path.stat().st_size]
