"""A policy's answers to prompts, and how far they show it to have moved. All ranks take part, whatever the engine."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from raypo.data.records import Text
from raypo.evaluation.kl import Divergence, divergence
from raypo.evaluation.prompts import end_of_turn
from raypo.evaluation.sampling import Completion, Sampling, sample
from raypo.evaluation.vllm import open_engine, sample_with_vllm
from raypo.search.materials import Materials
from raypo.search.together import broadcast, led, rank, world_size
from raypo.training.comm import gather
from raypo.training.memory import give_back
from raypo.training.trainer import Trainer

SPARED = 0.9
"""Share of a GPU's free memory that vLLM may take beside the trainer."""


def answer(
    trainer: Trainer, materials: Materials, prompts: Sequence[Text], sampling: Sampling, scratch: Path
) -> tuple[list[Completion], Divergence]:
    """All completions in the order of the prompts; `scratch` is a folder that every rank sees."""
    with_vllm = materials.study.objective.engine == "vllm"
    mine = (_from_vllm if with_vllm else _from_policy)(trainer, materials, prompts, sampling, scratch)
    policy, reference = trainer.sample_logps([(list(c.prompt_tokens), list(c.tokens)) for c in mine])
    parts = gather(list(zip(mine, policy, reference, strict=True)))
    found = sorted((item for part in parts for item in part), key=lambda item: item[0].index)
    return [c for c, _, _ in found], divergence([p for _, p, _ in found], [r for _, _, r in found])


def _from_policy(
    trainer: Trainer, materials: Materials, prompts: Sequence[Text], sampling: Sampling, _scratch: Path
) -> list[Completion]:
    """This rank's share, drawn from the live model."""
    template = materials.study.data.chat_template
    with trainer.policy() as model:
        return sample(
            model, materials.tokenizer, prompts, sampling, rank(), world_size(), chat_template=template
        )  # fmt: skip


def _from_vllm(
    trainer: Trainer, materials: Materials, prompts: Sequence[Text], sampling: Sampling, scratch: Path
) -> list[Completion]:
    """This rank's share of what rank 0 draws with vLLM from an exported copy of the weights."""
    template = materials.study.data.chat_template
    stops = end_of_turn(trainer.engine.policy.plain, materials.tokenizer, template)
    with _exported(trainer, scratch) as folder:

        def draw() -> list[Completion]:
            engine = open_engine(folder, **_options(materials, trainer.engine.device))
            try:
                return sample_with_vllm(
                    engine,
                    materials.tokenizer,
                    prompts,
                    sampling,
                    stops,
                    chat_template=template,
                )
            finally:
                del engine
                give_back()

        drawn: list[Completion] = led(draw)
    return drawn[rank() :: world_size()]


@contextlib.contextmanager
def _exported(trainer: Trainer, scratch: Path) -> Iterator[Path]:
    """A folder with the policy's present weights, for as long as it is needed."""
    if rank() == 0:
        scratch.mkdir(parents=True, exist_ok=True)
    folder = Path(broadcast(tempfile.mkdtemp(prefix=".sampling-", dir=scratch) if rank() == 0 else None))
    try:
        trainer.export(folder)
        yield folder
    finally:
        if rank() == 0:
            shutil.rmtree(folder, ignore_errors=True)


def _options(materials: Materials, device: torch.device) -> dict[str, Any]:
    """Precision as in training, and on a GPU what memory the trainer has left."""
    model = materials.study.model
    options: dict[str, Any] = {
        "dtype": "float32" if model.dtype == "fp32" else "bfloat16",
        "trust_remote_code": model.trust_remote_code,
    }
    if device.type == "cuda":
        give_back()
        left, whole = torch.cuda.mem_get_info(device)
        options["gpu_memory_utilization"] = round(SPARED * left / whole, 3)
    return options
