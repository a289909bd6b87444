"""Real small tokenizers, trained here on a few lines, and the HH pairs tokenised once."""

import time
from pathlib import Path
from typing import NamedTuple

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from raypo.data.records import Record
from raypo.data.sources import load
from raypo.data.tokenise import tokenise
from raypo.data.tokens import TokenSet
from raypo.data.truncation import Limits

LINES = [
    "What is the capital of France? The capital of France is Paris.",
    "How do I boil an egg? Put the egg in boiling water for eight minutes.",
    "\n\nHuman: Tell me a joke.\n\nAssistant: Why did the chicken cross the road?",
    "user assistant system answer question yes no good bad longer shorter",
] * 4

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WITH_BOS = "{{ bos_token }}" + CHATML


def byte_bpe(*specials: str, across_words: bool = False) -> Tokenizer:
    """Byte-level BPE; merges stay within words as in GPT-2, or cross spaces and line ends."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not across_words)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=list(specials), initial_alphabet=alphabet)
    tokenizer.train_from_iterator(LINES, trainer)
    return tokenizer


@pytest.fixture(scope="session")
def bpe() -> PreTrainedTokenizerFast:
    """Byte-level BPE with an end of sequence and no BOS, as GPT-NeoX and Qwen have it."""
    return PreTrainedTokenizerFast(tokenizer_object=byte_bpe("<eos>"), eos_token="<eos>", pad_token="<eos>")


@pytest.fixture(scope="session")
def merging() -> PreTrainedTokenizerFast:
    """BPE without pre-tokenisation: tokens reach across words, so most boundaries between texts fall inside one."""
    return PreTrainedTokenizerFast(tokenizer_object=byte_bpe("<eos>", across_words=True), eos_token="<eos>")


@pytest.fixture(scope="session")
def bos_bpe() -> PreTrainedTokenizerFast:
    """Byte-level BPE that puts BOS first, and even EOS last when asked for special tokens, as some Llama files do."""
    backend = byte_bpe("<s>", "</s>")
    ids = [("<s>", backend.token_to_id("<s>")), ("</s>", backend.token_to_id("</s>"))]
    backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ids)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="session")
def chat() -> PreTrainedTokenizerFast:
    """An instruct tokenizer: BOS both from the template and from the tokenizer, turns between im_start and im_end."""
    backend = byte_bpe("<s>", "</s>", "<|im_start|>", "<|im_end|>")
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = WITH_BOS
    return tokenizer


@pytest.fixture(scope="session")
def words() -> PreTrainedTokenizerFast:
    """One token a word: lengths in tests can be counted by eye. Its only special token is <eos>."""
    names = ["<unk>", "<eos>", *(f"{kind}{i}" for kind in "pcr" for i in range(40))]
    backend = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", unk_token="<unk>")


class Tokenised(NamedTuple):
    """Records, their tokens, and the processor seconds that took."""

    records: list[Record]
    tokens: TokenSet
    cpu_s: float


@pytest.fixture(scope="session")
def hh(bpe: PreTrainedTokenizerFast, shared_data: Path) -> Tokenised:
    """3038 real pairs, tokenised."""
    records = load(str(shared_data / "hh_rlhf" / "hh_short_train.jsonl.gz")).records
    started = time.process_time()
    return Tokenised(records, tokenise(records, bpe, Limits(1024)), time.process_time() - started)
