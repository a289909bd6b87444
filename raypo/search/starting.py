"""The starting model: supervised fine-tuning through the same trainer as everything else."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from raypo.data.tokens import TokenSet
from raypo.study import Study
from raypo.training.settings import EngineSetup, Lora, Optimisation, Run
from raypo.training.trainer import Trainer

SAY_EVERY_S = 3.0


def fine_tune(study: Study, base: Path, tokens: TokenSet, folder: Path, say: Callable[[str], None]) -> None:
    """Fine-tune `base` on completions as the study's `model.sft` says and write a Hugging Face folder.

    A micro-batch has as many answers as one of pairs; what trials train is trained, so that no more memory is needed.
    """
    sft = study.model.sft
    assert sft is not None
    setup = EngineSetup(
        model_path=str(base),
        dtype=study.model.dtype,
        zero_stage=study.resources.zero_stage,
        optimizer=sft.optimizer,
        micro_batch_size=2 * study.training.micro_batch_size,
        lora=Lora(**study.model.lora.model_dump()) if study.model.lora else None,
        gradient_checkpointing=study.model.gradient_checkpointing,
        offload=study.resources.offload,
        trust_remote_code=study.model.trust_remote_code,
    )
    optimisation = Optimisation(
        lr=sft.lr,
        batch_size=sft.batch_size,
        epochs=sft.epochs,
        schedule=sft.schedule,
        warmup=sft.warmup,
        gradient_clipping=sft.gradient_clipping,
    )
    trainer = Trainer(setup)
    try:
        trainer.begin(Run("sft", {}, optimisation, seed=study.search.seed), tokens, {})
        told = time.monotonic()

        def on_step(metrics: dict[str, float]) -> None:
            nonlocal told
            if time.monotonic() - told > SAY_EVERY_S:
                told = time.monotonic()
                say(f"fine-tuning, step {trainer.step} of {trainer.total_steps}, loss {metrics['loss']:.3f}")

        trainer.train(trainer.total_steps, on_step)
        trainer.export(folder)
    finally:
        trainer.close()
