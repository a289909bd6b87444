"""What every judge keeps, from one table: a new judge is tested by a new row."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_server import ChatService, said
from tiny_pairrm import save_pairrm
from transformers import LlamaConfig, LlamaForSequenceClassification

from raypo.evaluation.judges import Comparison, Judge
from raypo.evaluation.judges.llm import llm
from raypo.evaluation.judges.pairrm import pairrm
from raypo.evaluation.judges.reward_model import reward_model
from raypo.evaluation.judges.rule import rule

ITEMS = [
    Comparison("w1 w2", "w3 w4 w5", "w6"),
    Comparison(({"role": "user", "content": "w9"},), "w7", "w8 w8"),
    Comparison("w1 w2", "w10 w11", "w10 w11"),
    Comparison("w5", "", "w2"),
]


def by_rule(*_: Any) -> Judge:
    return rule(lambda _, answer: float(len(answer.split())))


def by_reward_model(tiny: Any, folder: Path, _: ChatService) -> Judge:
    torch.manual_seed(1)
    config = LlamaConfig(**tiny.model.config.to_dict() | {"num_labels": 1})
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    return reward_model(folder)


def by_pairrm(_: Any, folder: Path, __: ChatService) -> Judge:
    save_pairrm(folder)
    return pairrm(folder)


def by_llm(_: Any, __: Path, service: ChatService) -> Judge:
    service.reply = lambda r: said(f"More helpful: {'A' if len(r['messages'][-1]['content']) % 3 else 'B'}")
    return llm("gpt-x", "hh", wait_s=0.01)


JUDGES = (by_rule, by_reward_model, by_pairrm, by_llm)


@pytest.fixture(params=JUDGES, ids=lambda make: make.__name__)
def judge(request: pytest.FixtureRequest, tiny: Any, tmp_path: Path, service: ChatService) -> Judge:
    make: Callable[..., Judge] = request.param
    return make(tiny, tmp_path, service)


def test_scores_lie_in_the_unit_interval_in_the_order_of_the_items(judge: Judge) -> None:
    verdicts = judge.judge(ITEMS)
    assert all(v.parsed and 0 <= v.score <= 1 for v in verdicts)
    assert [judge.judge([item])[0].score for item in ITEMS] == pytest.approx([v.score for v in verdicts], abs=1e-6)


def test_swapping_the_answers_swaps_the_score(judge: Judge) -> None:
    scores = [v.score for v in judge.judge(ITEMS)]
    swapped = [v.score for v in judge.judge([Comparison(c.prompt, c.opponent, c.answer) for c in ITEMS])]
    assert swapped == pytest.approx([1 - score for score in scores], abs=1e-6)


def test_identical_answers_count_exactly_half(judge: Judge) -> None:
    assert judge.judge(ITEMS)[2].score == 0.5


def test_the_judge_has_a_name_that_says_its_kind(judge: Judge) -> None:
    assert judge.name.split(":")[0] in ("rule", "reward_model", "pairrm", "llm")
    assert not math.isnan(judge.judge(ITEMS[:1])[0].score)


def test_nothing_to_judge_gives_nothing(judge: Judge) -> None:
    assert judge.judge([]) == []
