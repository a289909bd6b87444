"""PairRM as a judge: a DeBERTa that reads a prompt with two answers (Jiang et al. 2023, arXiv 2306.02561).

Cheap and good enough to rank candidates early; it sees about 400 tokens of each answer and likes length, so it is not
for the last word.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, DebertaV2Model, DebertaV2PreTrainedModel

from raypo.artifacts import hash_folder
from raypo.errors import ModelError
from raypo.evaluation.judges.batches import by_length
from raypo.evaluation.judges.cache import MarkCache
from raypo.evaluation.judges.marks import Mark, Question
from raypo.evaluation.judges.verdicts import MAX_FAILED, PairJudge
from raypo.evaluation.prompts import as_text

SOURCE, FIRST, SECOND = "<|source|>", "<|candidate1|>", "<|candidate2|>"
SOURCE_TOKENS, ALL_TOKENS = 1224, 2048
BATCH_TOKENS = 16384


def pairrm(
    path: str | Path, *, device: str = "cpu", cache: MarkCache | None = None, max_failed: float = MAX_FAILED
) -> PairJudge:
    """A judge by PairRM in a folder (the layout of `llm-blender/PairRM-hf`); raises ModelError for anything else."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        loaded: Any = PairRanker.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: not a PairRM folder ({str(error).splitlines()[0]})") from error
    model, report = loaded
    lacking = sorted(report["missing_keys"]) + [
        token for token in (SOURCE, FIRST, SECOND) if tokenizer.convert_tokens_to_ids(token) == tokenizer.unk_token_id
    ]
    if lacking:
        raise ModelError(f"{path}: not a PairRM folder, it lacks {', '.join(lacking[:3])}; give llm-blender/PairRM-hf")
    return PairJudge(_PairRM(model.to(device).eval(), tokenizer, hash_folder(path)[:12]), cache, max_failed)


class PairRanker(DebertaV2PreTrainedModel):
    """DeBERTa with a head on the encodings of the prompt's marker and one answer's marker."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        width, dropout = config.hidden_size, config.hidden_dropout_prob
        self.pretrained_model = DebertaV2Model(config)
        self.head_layer = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(2 * width, width), nn.Tanh(), nn.Dropout(dropout), nn.Linear(width, 1)
        )
        self.post_init()

    def forward(self, ids: Tensor, mask: Tensor, markers: Tensor) -> Tensor:
        """[B] log-odds that the first answer is better; markers [B, 3] are where prompt, first and second begin."""
        encoded = self.pretrained_model(input_ids=ids, attention_mask=mask).last_hidden_state
        prompt, first, second = encoded[torch.arange(len(ids))[:, None], markers].unbind(1)
        scores = [self.head_layer(torch.cat([prompt, answer], -1))[:, 0] for answer in (first, second)]
        return scores[0] - scores[1]


@dataclass(frozen=True)
class _PairRM:
    model: Any
    tokenizer: Any
    revision: str

    @property
    def name(self) -> str:
        return f"pairrm:{self.revision}"

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"judge": "pairrm", "revision": self.revision}

    @torch.no_grad()
    def compare(self, questions: Sequence[Question]) -> Iterable[Mark]:
        rows = [self._read(question) for question in questions]
        marks = [Mark(0.5)] * len(rows)
        for batch in by_length([len(ids) for ids, _ in rows], BATCH_TOKENS):
            for i, log_odds in zip(batch, self._log_odds([rows[i] for i in batch]), strict=True):
                marks[i] = Mark(log_odds.sigmoid().item())
        return marks

    def _log_odds(self, rows: list[tuple[list[int], list[int]]]) -> Tensor:
        longest = max(len(ids) for ids, _ in rows)
        ids = torch.tensor([ids + [self.tokenizer.pad_token_id] * (longest - len(ids)) for ids, _ in rows])
        mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in rows])
        markers = torch.tensor([places for _, places in rows])
        device = self.model.device
        return self.model(ids.to(device), mask.to(device), markers.to(device)).double().cpu()

    def _read(self, question: Question) -> tuple[list[int], list[int]]:
        """Ids of prompt and both answers, and the places of their three markers."""
        ids = self._piece(SOURCE, as_text(question.prompt), SOURCE_TOKENS)
        places = [ids.index(self.tokenizer.convert_tokens_to_ids(SOURCE))]
        room = (ALL_TOKENS - len(ids)) // 2
        for marker, text in ((FIRST, question.first), (SECOND, question.second)):
            piece = self._piece(marker, text, room)
            places.append(len(ids) + piece.index(self.tokenizer.convert_tokens_to_ids(marker)))
            ids += piece
        return ids, places

    def _piece(self, marker: str, text: str, room: int) -> list[int]:
        # An answer that spells a marker must not become one.
        harmless = text.replace("<|", "< |")
        return list(self.tokenizer(marker + harmless, truncation=True, max_length=room)["input_ids"])
