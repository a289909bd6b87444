"""A random DeBERTa in PairRM's layout."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import DebertaV2Config, PreTrainedTokenizerFast

from raypo.evaluation.judges.pairrm import FIRST, SECOND, SOURCE, PairRanker

SPECIALS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]


def save_pairrm(folder: Path, markers: tuple[str, ...] = (SOURCE, FIRST, SECOND)) -> None:
    """Write a tiny PairRM whose head tells answers apart."""
    words = [*SPECIALS, *"<|:.?! ", *[chr(c) for c in range(97, 123)], *"0123456789"]
    split = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    split.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    split.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=split, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]"
    )
    tokenizer.add_tokens(list(markers))
    torch.manual_seed(3)
    config = DebertaV2Config(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=64, norm_rel_ebd="layer_norm",
        share_att_key=True, type_vocab_size=0, position_biased_input=False, initializer_range=0.2,
    )  # fmt: skip
    PairRanker(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
