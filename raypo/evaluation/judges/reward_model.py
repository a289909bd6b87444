"""A judge that is a reward model: the score is the Bradley-Terry probability of the difference of rewards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from raypo.artifacts import hash_folder
from raypo.data.records import Demonstration, Text
from raypo.data.rendering import OWN_TEMPLATE, TEMPLATES, TRANSCRIPT, Renderer
from raypo.errors import ModelError
from raypo.evaluation.judges.batches import by_length
from raypo.evaluation.judges.cache import MarkCache
from raypo.evaluation.judges.marks import Answer, Mark
from raypo.evaluation.judges.verdicts import RatingJudge, logistic

BATCH_TOKENS = 16384


def reward_model(
    path: str | Path,
    *,
    device: str = "cpu",
    max_length: int = 2048,
    chat_template: str = TRANSCRIPT,
    cache: MarkCache | None = None,
) -> RatingJudge:
    """A judge by a Hugging Face sequence classifier in a folder; its first logit is the reward.

    Prompts and answers go through the model's chat template. Where it has none, plain ones are joined and
    conversations are written by `chat_template`, one of TEMPLATES. Texts longer than `max_length` tokens lose their
    start. Raises ModelError where the folder holds no such model.
    """
    return RatingJudge(RewardRater.load(path, "reward_model", device, max_length, chat_template), logistic, cache)


class RewardModel:
    """A sequence classifier with its tokenizer, reading (prompt, answer) as one text.

    `chat_template`, one of TEMPLATES, writes conversations where the tokenizer has no template of its own; then
    `stand_in` is its text, else None.
    """

    def __init__(self, model: Any, tokenizer: Any, max_length: int, chat_template: str = TRANSCRIPT) -> None:
        if tokenizer.pad_token_id is None and tokenizer.eos_token_id is None:
            raise ModelError("reward model: the tokenizer has neither a padding nor an end-of-text token; give it one")
        self.model, self.tokenizer, self.max_length = model, tokenizer, max_length
        own = OWN_TEMPLATE if tokenizer.chat_template else None
        self._texts, self._conversations = Renderer(tokenizer, own), Renderer(tokenizer, own or chat_template)
        self.stand_in = None if own else TEMPLATES[chat_template]

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str = "cpu",
        max_length: int = 2048,
        chat_template: str = TRANSCRIPT,
        **settings: Any,
    ) -> RewardModel:
        """Read model and tokenizer from a folder; `settings` go to the model's configuration."""
        try:
            tokenizer = AutoTokenizer.from_pretrained(path)
            # On a CPU half precision is slow; elsewhere the weights stay as they were stored.
            dtype = torch.float32 if device == "cpu" or settings else "auto"
            model = AutoModelForSequenceClassification.from_pretrained(path, dtype=dtype, **settings)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"{path}: not a sequence classifier with its tokenizer ({str(error).splitlines()[0]}); "
                "give a folder written by save_pretrained"
            ) from error
        return cls(model.to(device).eval(), tokenizer, max_length, chat_template)

    def ids(self, prompt: Text, answer: Text) -> list[int]:
        """Token ids of a prompt with its answer, the end of the answer included."""
        plain = isinstance(prompt, str) and isinstance(answer, str)
        (sequence,) = (self._texts if plain else self._conversations).sequences(Demonstration(prompt, answer))
        ids = list(self.tokenizer(sequence.text, add_special_tokens=not sequence.templated)["input_ids"])
        end = self.tokenizer.eos_token_id
        if sequence.ends and end is not None and ids[-1:] != [end]:
            ids.append(end)
        cut = max(0, len(ids) - self.max_length)
        opening = ids[:1] if cut and ids[0] in (self.tokenizer.bos_token_id, self.tokenizer.cls_token_id) else []
        return opening + ids[cut + len(opening) :]

    def rewards(self, rows: Sequence[list[int]]) -> Tensor:
        """[N] rewards of N texts given as ids, in one batch, with gradient where that is on."""
        device = next(self.model.parameters()).device
        longest = max(map(len, rows))
        # Models find the end of a text as the last id that is not padding, so padding must not be how a text ends.
        ends = {row[-1] for row in rows}
        pad = next(i for i in range(len(ends) + 1) if i not in ends)
        self.model.config.pad_token_id = pad
        ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device)
        return self.model(input_ids=ids, attention_mask=mask).logits[:, 0].float()

    def save(self, folder: Path) -> None:
        """Write model and tokenizer where `load` finds them."""
        self.model.config.pad_token_id = self.tokenizer.pad_token_id or self.tokenizer.eos_token_id
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    @torch.no_grad()
    def rate(self, rows: Sequence[list[int]]) -> list[float]:
        """Rewards of N texts, batched by length."""
        found = [0.0] * len(rows)
        for batch in by_length([len(row) for row in rows], BATCH_TOKENS):
            for i, reward in zip(batch, self.rewards([rows[i] for i in batch]).tolist(), strict=True):
                found[i] = reward
        return found


@dataclass(frozen=True)
class RewardRater:
    """A reward model as a rater."""

    model: RewardModel
    kind: str
    revision: str

    @classmethod
    def load(cls, path: str | Path, kind: str, device: str, max_length: int, chat_template: str) -> RewardRater:
        return cls(RewardModel.load(path, device, max_length, chat_template), kind, hash_folder(path)[:12])

    @property
    def name(self) -> str:
        return f"{self.kind}:{self.revision}"

    @property
    def identity(self) -> Mapping[str, Any]:
        return {
            "judge": "reward_model",
            "revision": self.revision,
            "max_length": self.model.max_length,
            "chat_template": self.model.stand_in,
        }

    def rate(self, answers: Sequence[Answer]) -> Iterable[Mark]:
        return map(Mark, self.model.rate([self.model.ids(answer.prompt, answer.text) for answer in answers]))
