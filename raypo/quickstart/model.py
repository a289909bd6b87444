"""The tiny untrained model of the embedded default: a Llama of about 0.4 M parameters that knows the task's words."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from raypo.quickstart.vocabulary import words

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
LONGEST = 64
"""Positions of the model: the longest prompt and answer with room to spare, tokens."""


def build(folder: Path, seed: int = 0) -> None:
    """Write an untrained model and its tokenizer as a Hugging Face folder; equal seeds give equal bytes."""
    tokenizer = word_tokenizer()
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=344,
        num_hidden_layers=2,
        initializer_range=0.08,
        num_attention_heads=4,
        max_position_embeddings=LONGEST,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)


def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, words divided by blanks; a line break is a word. Decoding joins with single blanks."""
    vocabulary = {word: index for index, word in enumerate([PAD, EOS, UNKNOWN, *words()])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n|[^\s]+"), behavior="removed", invert=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        padding_side="left",
        model_max_length=LONGEST,
        clean_up_tokenization_spaces=False,
    )
