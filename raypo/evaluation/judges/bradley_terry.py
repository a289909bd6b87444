"""A reward model of one's own: trained on pairs that neither training nor evaluation sees, then used as a judge."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.nn.functional import logsigmoid
from transformers import get_cosine_schedule_with_warmup

from raypo.data.records import Pair
from raypo.data.rendering import TRANSCRIPT
from raypo.errors import DataError, Diverged, ModelError
from raypo.evaluation.judges.cache import MarkCache
from raypo.evaluation.judges.reward_model import RewardModel, RewardRater
from raypo.evaluation.judges.verdicts import RatingJudge, logistic

REPORT = "raypo_reward_model.json"


@dataclass(frozen=True)
class RewardTraining:
    """How a reward model is trained; batch_size in pairs, warmup as a share of all steps.

    `chat_template` writes conversations, in training and in judging, where the base's tokenizer has no template.
    """

    epochs: int = 1
    lr: float = 1e-4
    batch_size: int = 32
    max_length: int = 512
    weight_decay: float = 0.01
    warmup: float = 0.1
    seed: int = 0
    device: str = "cpu"
    chat_template: str = TRANSCRIPT


def bradley_terry(path: str | Path, *, device: str = "cpu", cache: MarkCache | None = None) -> RatingJudge:
    """A judge by a folder that `train_reward_model` wrote."""
    if not (Path(path) / REPORT).exists():
        raise ModelError(f"{path}: no {REPORT} here; give a folder that raypo trained, or use the judge reward_model")
    settings = RewardTraining(**json.loads((Path(path) / REPORT).read_text())["settings"])
    rewards = RewardRater.load(path, "bradley_terry", device, settings.max_length, settings.chat_template)
    return RatingJudge(rewards, logistic, cache)


def train_reward_model(
    base: str | Path, records: Sequence[Pair], heldout: Sequence[Pair], settings: RewardTraining, out: Path
) -> float:
    """Train a reward head and its base on pairs, write both to `out`, return the accuracy on held-out pairs.

    The loss is -log sigmoid(reward of chosen - reward of rejected) (Bradley and Terry 1952); equal rewards count half
    in the accuracy. Raises DataError without records and Diverged when the loss is no number.
    """
    if not records or not heldout:
        raise DataError(
            f"reward model: needs pairs to train on and pairs to test on, got {len(records)} and {len(heldout)}"
        )
    torch.manual_seed(settings.seed)
    reader = RewardModel.load(base, settings.device, settings.max_length, settings.chat_template, num_labels=1)
    _fit(reader, _rows(reader, records), settings)
    chosen, rejected = zip(*_rows(reader, heldout), strict=True)
    accuracy = pair_accuracy(reader.rate(chosen), reader.rate(rejected))
    reader.save(out)
    report = {"accuracy": accuracy, "pairs": len(records), "heldout": len(heldout), "settings": asdict(settings)}
    (Path(out) / REPORT).write_text(json.dumps(report, indent=1))
    return accuracy


def pair_accuracy(chosen: Sequence[float], rejected: Sequence[float]) -> float:
    """Share of pairs whose chosen answer has the higher reward, ties half."""
    return sum(0.5 * ((c > r) + (c >= r)) for c, r in zip(chosen, rejected, strict=True)) / len(chosen)


Rows = list[tuple[list[int], list[int]]]


def _rows(reader: RewardModel, records: Sequence[Pair]) -> Rows:
    return [(reader.ids(r.prompt, r.chosen), reader.ids(r.prompt, r.rejected)) for r in records]


def _fit(reader: RewardModel, rows: Rows, settings: RewardTraining) -> None:
    order = torch.Generator().manual_seed(settings.seed)
    steps = math.ceil(len(rows) / settings.batch_size) * settings.epochs
    optimizer = torch.optim.AdamW(reader.model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    schedule = get_cosine_schedule_with_warmup(optimizer, round(settings.warmup * steps), steps)
    reader.model.train()
    for _ in range(settings.epochs):
        for batch in torch.randperm(len(rows), generator=order).split(settings.batch_size):
            pairs = [rows[i] for i in batch.tolist()]
            rewards = reader.rewards([c for c, _ in pairs] + [r for _, r in pairs])
            loss = -logsigmoid(rewards[: len(pairs)] - rewards[len(pairs) :]).mean()
            if not torch.isfinite(loss):
                raise Diverged(f"reward model: the loss is {loss.item()} at lr={settings.lr:g}; lower it")
            loss.backward()
            torch.nn.utils.clip_grad_norm_(reader.model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    reader.model.eval()
