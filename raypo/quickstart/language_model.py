"""A small language model from nothing but text: for real preferences where no pretrained model is at hand.

It learns spelling, phrases and a little grammar in minutes on a CPU, no knowledge. That is enough to be aligned and
compared, and too little to be used.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from raypo.data.files import read_file
from raypo.errors import DataError

PAD, EOS = "<pad>", "<eos>"
POSITIONS = 1024
SAY_EVERY = 25
"""Steps between two words of progress."""


def build_from_text(
    folder: Path,
    *,
    text: str,
    vocabulary: int,
    hidden: int,
    layers: int,
    heads: int,
    steps: int,
    batch_size: int,
    length: int,
    lr: float,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> None:
    """Write a tokenizer and a Llama trained on a text file as a Hugging Face folder.

    `text` is a plain (.txt, .txt.gz) or a data file (every string of its rows is text); `vocabulary` the size of a
    byte-level BPE learnt from it; each of the `steps` sees `batch_size` windows of `length` tokens. The loss that is
    said is in nats a token, a mean since it was last said. Raises DataError when the text is shorter than one window.
    """
    documents = list(read_text(Path(text)))
    tokenizer = byte_tokenizer(documents, vocabulary)
    stream = _stream(tokenizer, documents)
    if len(stream) <= length:
        raise DataError(f"{text}: {len(stream)} tokens, fewer than one window of {length}; give more text")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(_config(tokenizer, hidden, layers, heads))
        _fit(model, _windows(stream, length, batch_size), steps, lr, say)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


def read_text(path: Path) -> Iterator[str]:
    """The documents of a text file (one) or of a data file (one a row, its strings joined by line breaks)."""
    if not path.is_file():
        raise DataError(f"{path}: no such text file; give a .txt or a data file")
    if ".txt" in path.suffixes[-2:]:
        yield (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()
        return
    for _, row in read_file(path):
        values = [value for cell in row.values() for value in (cell if isinstance(cell, list) else [cell])]
        yield "\n".join(value for value in values if isinstance(value, str))


def byte_tokenizer(documents: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of `vocabulary` tokens learnt from the documents: any text encodes and decodes unharmed."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        padding_side="left",
        model_max_length=POSITIONS,
        clean_up_tokenization_spaces=False,
    )


def _config(tokenizer: PreTrainedTokenizerFast, hidden: int, layers: int, heads: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _stream(tokenizer: PreTrainedTokenizerFast, documents: Sequence[str]) -> Tensor:
    """[total] ids of all documents, each closed by the end token."""
    ids = [[*encoded, tokenizer.eos_token_id] for encoded in tokenizer(list(documents)).input_ids]
    return torch.tensor([token for document in ids for token in document])


def _windows(stream: Tensor, length: int, batch_size: int) -> Iterator[Tensor]:
    """Batches [batch_size, length] from random places, for ever."""
    while True:
        starts = torch.randint(len(stream) - length, (batch_size,))
        yield stream[starts[:, None] + torch.arange(length)]


def _fit(model: LlamaForCausalLM, batches: Iterator[Tensor], steps: int, lr: float, say: Callable[[str], None]) -> None:
    """Next-token training with a tenth of warmup and a cosine."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.1)
    warmup = max(1, steps // 10)

    def factor(step: int) -> float:
        return min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * step / steps)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    losses: list[float] = []
    model.train()
    for step, ids in zip(range(1, steps + 1), batches, strict=False):
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % SAY_EVERY == 0 or step == steps:
            say(f"pretraining, step {step} of {steps}, loss {sum(losses) / len(losses):.3f}")
            losses.clear()
