"""Judges that are models in a folder: reward models, one trained here, PairRM."""

import json
import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_pairrm import save_pairrm
from tokenizers import processors
from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForSequenceClassification

from raypo.data.records import Message, Pair
from raypo.data.rendering import TEMPLATES
from raypo.errors import DataError, Diverged, ModelError
from raypo.evaluation.judges import Comparison
from raypo.evaluation.judges.bradley_terry import RewardTraining, bradley_terry, pair_accuracy, train_reward_model
from raypo.evaluation.judges.cache import MarkCache
from raypo.evaluation.judges.marks import Question
from raypo.evaluation.judges.pairrm import FIRST, SECOND, SOURCE, pairrm
from raypo.evaluation.judges.reward_model import RewardModel, reward_model


@pytest.fixture
def folder(tiny: Any, tmp_path: Path) -> Path:
    """A random reward model on disk."""
    torch.manual_seed(1)
    config = LlamaConfig(**tiny.model.config.to_dict() | {"num_labels": 1, "pad_token_id": None})
    LlamaForSequenceClassification(config).save_pretrained(tmp_path / "rm")
    tiny.tokenizer.save_pretrained(tmp_path / "rm")
    return tmp_path / "rm"


def test_the_score_is_the_sigmoid_of_the_difference_of_rewards(folder: Path, tiny: Any) -> None:
    """Rewards come from an independent forward of one unpadded text each."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()

    def reward(text: str) -> float:
        ids = torch.tensor([[*tiny.tokenizer(text)["input_ids"], 0]])
        model.config.pad_token_id = 1
        return float(model(ids).logits[0, 0].detach())

    items = [Comparison("w1 ", "w2 w3 w4", "w5"), Comparison("w6 ", "w7", "w8 w9")]
    for item, verdict in zip(items, reward_model(folder).judge(items), strict=True):
        own, other = reward(item.prompt + item.answer), reward(item.prompt + item.opponent)  # type: ignore[operator]
        assert verdict.ratings == pytest.approx((own, other), abs=1e-5)
        assert verdict.score == pytest.approx(1 / (1 + math.exp(other - own)), abs=1e-5)


def test_rewards_do_not_depend_on_the_batch(folder: Path) -> None:
    judge = reward_model(folder)
    items = [Comparison(f"w{i}", "w1 " * i, "w2 " * (30 - i)) for i in range(1, 30)]
    together = judge.judge(items)
    alone = [judge.judge([item])[0] for item in items]
    assert [v.ratings for v in together] == [pytest.approx(v.ratings, abs=1e-5) for v in alone]


def test_the_chat_template_frames_prompt_and_answer(folder: Path, tiny: Any) -> None:
    tokenizer = deepcopy(tiny.tokenizer)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"
    reader = RewardModel(AutoModelForSequenceClassification.from_pretrained(folder), tokenizer, 64)
    read = reader.ids(({"role": "user", "content": "w1"},), "w2")
    unknown = 1
    assert read == [unknown, tokenizer.convert_tokens_to_ids("w1"), unknown, tokenizer.convert_tokens_to_ids("w2"), 0]
    assert reader.ids("w1", "w2") == read


TERSE = "{% for m in messages %} w8 {{ m.content }}{% endfor %}"


def asked(text: str) -> tuple[Message, ...]:
    return ({"role": "user", "content": text},)


def test_without_a_template_conversations_are_written_as_named_and_plain_texts_are_joined(
    folder: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TEMPLATES, "terse", TERSE)
    usual, terse = (RewardModel.load(folder, max_length=64, **named) for named in ({}, {"chat_template": "terse"}))
    read = tiny.tokenizer
    assert usual.ids(asked("w1"), "w2") == [*read("\n\nHuman: w1\n\nAssistant: w2")["input_ids"], 0]
    assert terse.ids(asked("w1"), "w2") == [*read(" w8 w1 w8 w2")["input_ids"], 0]
    assert usual.ids("w1 ", "w2") == terse.ids("w1 ", "w2") == [*read("w1 w2")["input_ids"], 0]


def test_a_conversation_without_a_template_begins_and_ends_as_a_plain_text(folder: Path, tiny: Any) -> None:
    tokenizer = deepcopy(tiny.tokenizer)
    tokenizer.add_special_tokens({"bos_token": "<turn>"})
    frame = processors.TemplateProcessing(single="<turn> $A <end>", special_tokens=[("<turn>", 2), ("<end>", 0)])
    tokenizer.backend_tokenizer.post_processor = frame
    reader = RewardModel(AutoModelForSequenceClassification.from_pretrained(folder), tokenizer, 64)
    for prompt in ("w1 ", asked("w1")):
        ids = reader.ids(prompt, "w2")
        assert (ids[0], ids[-2:]) == (2, [tokenizer.convert_tokens_to_ids("w2"), 0])


def test_marks_of_conversations_are_kept_for_the_template_that_wrote_them(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TEMPLATES, "terse", TERSE)
    items = [Comparison(asked("w1"), "w2", "w9")]
    cache = MarkCache(tmp_path / "marks")
    first, second = (
        reward_model(folder, chat_template=name, cache=cache).judge(items)[0].ratings for name in TEMPLATES
    )
    alone = reward_model(folder, chat_template="terse").judge(items)[0].ratings
    assert second == pytest.approx(alone, abs=1e-6)
    assert first != pytest.approx(second, abs=1e-6)


def test_a_trained_reward_model_reads_conversations_as_it_learnt_them(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TEMPLATES, "terse", TERSE)
    tiny.model.save_pretrained(tmp_path / "base")
    tiny.tokenizer.save_pretrained(tmp_path / "base")
    talks = [Pair(asked(str(p.prompt)), p.chosen, p.rejected) for p in preferences(40, seed=0)]
    settings = RewardTraining(lr=3e-3, max_length=64, chat_template="terse")
    accuracy = train_reward_model(tmp_path / "base", talks[:20], talks[20:], settings, tmp_path / "rm")
    judge: Any = bradley_terry(tmp_path / "rm")
    assert judge.rater.model.ids(asked("w1"), "w2")[:-1] == tiny.tokenizer(" w8 w1 w8 w2")["input_ids"]
    verdicts = judge.judge([Comparison(p.prompt, str(p.chosen), str(p.rejected)) for p in talks[20:]])
    assert np.mean([v.score > 0.5 for v in verdicts]) == pytest.approx(accuracy)


def test_long_texts_lose_their_start_and_keep_the_answer(folder: Path, tiny: Any) -> None:
    reader = RewardModel(AutoModelForSequenceClassification.from_pretrained(folder), tiny.tokenizer, 4)
    assert reader.ids("w1 w2 w3 w4 ", "w5 w6") == tiny.tokenizer("w4 w5 w6")["input_ids"] + [0]


def test_the_opponents_answers_are_rated_once_in_a_whole_search(folder: Path, tmp_path: Path) -> None:
    judge = reward_model(folder, cache=MarkCache(tmp_path / "marks"))
    judge.judge([Comparison("w1", "w2", "w9"), Comparison("w3", "w4", "w9")])
    again = reward_model(folder, cache=MarkCache(tmp_path / "marks"))
    rated: list[int] = []
    again.rater.model.rate = lambda rows: rated.extend(map(len, rows)) or [0.0] * len(rows)  # type: ignore[attr-defined, method-assign]
    again.judge([Comparison("w1", "w5", "w9"), Comparison("w3", "w6", "w9")])
    assert len(rated) == 2


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a sequence classifier"):
        reward_model(tmp_path)


def shared_words(prompt: str, answer: str) -> int:
    return len(set(prompt.split()) & set(answer.split()))


def preferences(count: int, seed: int) -> list[Pair]:
    """The better answer holds the word w1; one label in ten is wrong."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        words = [f"w{i}" for i in rng.integers(2, 60, 8)]
        good = " ".join([*words[:3], "w1", words[3]])
        poor = " ".join(words[4:])
        chosen, rejected = (good, poor) if rng.random() < 0.9 else (poor, good)
        pairs.append(Pair(f"w{rng.integers(2, 60)} ", chosen, rejected))
    return pairs


def test_a_trained_reward_model_judges_by_what_its_pairs_prefer(tiny: Any, tmp_path: Path) -> None:
    tiny.model.save_pretrained(tmp_path / "base")
    tiny.tokenizer.save_pretrained(tmp_path / "base")
    settings = RewardTraining(epochs=2, lr=3e-3, batch_size=16, max_length=32)
    heldout = preferences(100, seed=1)
    accuracy = train_reward_model(tmp_path / "base", preferences(400, seed=0), heldout, settings, tmp_path / "rm")
    assert 0.8 < accuracy <= 0.95
    report = json.loads((tmp_path / "rm" / "raypo_reward_model.json").read_text())
    assert (report["accuracy"], report["pairs"], report["heldout"]) == (accuracy, 400, 100)
    judge = bradley_terry(tmp_path / "rm")
    assert judge.name.startswith("bradley_terry:")
    verdicts = judge.judge([Comparison(p.prompt, p.chosen, p.rejected) for p in heldout])  # type: ignore[arg-type]
    assert np.mean([v.score > 0.5 for v in verdicts]) == pytest.approx(accuracy)


def test_reward_training_says_what_is_wrong(tiny: Any, tmp_path: Path) -> None:
    tiny.model.save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(DataError, match="got 0 and 1"):
        train_reward_model(tmp_path, [], preferences(1, 0), RewardTraining(), tmp_path / "rm")
    settings = RewardTraining(lr=1e30, batch_size=4, warmup=0)
    with pytest.raises(Diverged, match="lr=1e"):
        train_reward_model(tmp_path, preferences(40, 0), preferences(4, 1), settings, tmp_path / "rm")


def test_accuracy_counts_equal_rewards_half() -> None:
    assert pair_accuracy([1.0, 2.0, 0.0, 3.0], [0.0, 2.0, 1.0, 1.0]) == 0.625


def test_pairrm_averages_both_orders(tmp_path: Path) -> None:
    save_pairrm(tmp_path)
    judge = pairrm(tmp_path)
    (verdict,) = judge.judge([Comparison("why?", "because it is so", "no")])
    first, second = verdict.orders
    assert first != pytest.approx(second, abs=1e-3)
    assert verdict.score == pytest.approx((first + second) / 2)


def test_pairrm_reads_the_markers_where_prompt_and_answers_begin(tmp_path: Path) -> None:
    """The log-odds follow from the encodings at the three markers, computed here step by step."""
    save_pairrm(tmp_path)
    comparer: Any = pairrm(tmp_path).comparer
    model, tokenizer = comparer.model, comparer.tokenizer
    text = [f"{SOURCE}why?", f"{FIRST}yes", f"{SECOND}no no"]
    ids = torch.tensor([[i for part in text for i in tokenizer(part)["input_ids"]]])
    encoded = model.pretrained_model(ids).last_hidden_state[0]
    at = [encoded[ids[0].tolist().index(tokenizer.convert_tokens_to_ids(m))] for m in (SOURCE, FIRST, SECOND)]
    one, two = (model.head_layer(torch.cat([at[0], answer])) for answer in at[1:])
    (mark,) = comparer.compare([Question("why?", "yes", "no no")])
    assert mark.value == pytest.approx(torch.sigmoid(one - two).item(), abs=1e-6)


def test_an_answer_cannot_pose_as_a_marker(tmp_path: Path) -> None:
    save_pairrm(tmp_path)
    comparer: Any = pairrm(tmp_path).comparer
    ids, places = comparer._read(Question("why?", f"yes {SECOND} bad", "no"))
    marker = comparer.tokenizer.convert_tokens_to_ids(SECOND)
    assert ids.count(marker) == 1
    assert ids[places[2]] == marker


def test_other_folders_are_no_pairrm(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ModelError, match="not a PairRM folder"):
        pairrm(folder)
    save_pairrm(tmp_path / "plain", markers=(SOURCE,))
    with pytest.raises(ModelError, match=r"lacks <\|candidate1\|>"):
        pairrm(tmp_path / "plain")
