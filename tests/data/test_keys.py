"""Keys: a hit wherever the content is the same, a miss wherever it is not."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from raypo.artifacts import Store, hash_of
from raypo.data.keys import hash_tokenizer, logps_key, tokens_key
from raypo.data.records import Pair
from raypo.data.tokenise import tokenise
from raypo.data.tokens import TokenSet
from raypo.data.truncation import Limits

RECORDS = [Pair("p0", " c0", " r0", source="here row 1"), Pair("p1", " c1", " r1", source="here row 2")]
LIMITS = Limits(64, 32)


def tokenised(store: Store, tokenizer, made: list[str], records=RECORDS, limits=LIMITS, template=None) -> TokenSet:
    def make(folder: Path) -> None:
        made.append("tokens")
        tokenise(records, tokenizer, limits, template).save(folder)

    return TokenSet.load(store.get_or_make("tokens", tokens_key(records, tokenizer, limits, template), make))


def test_tokens_are_shared_by_all_trials_of_all_studies(words, tmp_path: Path) -> None:
    """beta, learning rate, seed, name and output folder have no way in; place and name of the data do not count."""
    made: list[str] = []
    tokenised(Store(tmp_path), words, made)
    moved = [replace(record, source="elsewhere row 9") for record in RECORDS]
    tokenised(Store(tmp_path), words, made, records=moved)
    words.save_pretrained(tmp_path / "copy")
    tokenised(Store(tmp_path), AutoTokenizer.from_pretrained(tmp_path / "copy"), made)
    assert made == ["tokens"]


def test_tokens_are_made_again_when_they_would_differ(words, bpe, tmp_path: Path) -> None:
    made: list[str] = []
    store = Store(tmp_path)
    tokenised(store, words, made)
    tokenised(store, words, made, limits=Limits(63, 32))
    tokenised(store, words, made, limits=Limits(64, 31))
    tokenised(store, words, made, limits=Limits(64, 32, "prompt_end"))
    tokenised(store, words, made, template="transcript")
    tokenised(store, bpe, made)
    tokenised(store, words, made, records=RECORDS[:1])
    tokenised(store, words, made, records=RECORDS[::-1])
    assert len(made) == 8
    assert len(store.list()) == 8


def test_a_tokenizer_is_what_it_does(bpe, chat) -> None:
    same = hash_tokenizer(bpe)
    bpe(["a", "b c"], padding="max_length", truncation=True, max_length=4)
    assert hash_tokenizer(bpe) == same, "a call's padding and truncation stay in the backend, and say nothing"
    template = copy.deepcopy(chat)
    template.chat_template = chat.chat_template + " "
    added = copy.deepcopy(chat)
    added.add_tokens(["newword"])
    ended = copy.deepcopy(chat)
    ended.eos_token = "<|im_end|>"
    assert len({hash_tokenizer(t) for t in (bpe, chat, template, added, ended)}) == 5


@pytest.mark.parametrize(
    "change", [{"model": "m2"}, {"dtype": "bf16"}, {"tokens": {"max_length": 65}}, {"adapter": "a"}]
)
def test_frozen_log_probs_depend_on_model_tokens_and_precision(change: dict) -> None:
    given = {"tokens": {"max_length": 64}, "model": "m1", "dtype": "fp32"}
    assert hash_of(logps_key(**given)) == hash_of(logps_key(**given))
    assert hash_of(logps_key(**given)) != hash_of(logps_key(**{**given, **change}))
