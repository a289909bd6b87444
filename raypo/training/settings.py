"""What a training run is made of: the engine it needs, how it optimises, and which method it trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from raypo.errors import StudyError

Dtype = Literal["fp32", "bf16"]
OptimizerName = Literal["adamw", "rmsprop", "adafactor"]
Schedule = Literal["linear", "cosine", "constant"]


@dataclass(frozen=True)
class Lora:
    """A low-rank adapter; its reference is the same model with the adapter off."""

    rank: int = 16
    alpha: int = 32
    targets: str | tuple[str, ...] = "all-linear"
    """Names of the adapted linear layers; "all-linear" leaves the LM head alone."""


@dataclass(frozen=True)
class EngineSetup:
    """What is fixed while an engine stays warm; runs with equal setups share one engine.

    `zero_stage` 0 is plain data-parallel PyTorch in fp32, 1-3 are DeepSpeed's. `micro_batch_size` counts examples
    (pairs, lists) per rank and forward-backward pass. `offload` keeps optimizer state in main memory (stages 1-3).
    """

    model_path: str
    dtype: Dtype = "fp32"
    zero_stage: int = 2
    optimizer: OptimizerName = "adamw"
    micro_batch_size: int = 8
    lora: Lora | None = None
    gradient_checkpointing: bool = False
    offload: bool = False
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        checks = [
            (self.dtype in ("fp32", "bf16"), f"dtype: got {self.dtype!r}; allowed fp32, bf16"),
            (self.zero_stage in (0, 1, 2, 3), f"zero_stage: got {self.zero_stage!r}; allowed 0, 1, 2, 3"),
            (self.micro_batch_size >= 1, f"micro_batch_size: must be at least 1, got {self.micro_batch_size}"),
            (
                self.dtype == "fp32" or self.zero_stage > 0,
                "dtype: bf16 needs ZeRO stage 1, 2 or 3 for its fp32 master weights, got stage 0; raise zero_stage",
            ),
            (
                self.optimizer != "adafactor" or self.zero_stage == 0,
                f"optimizer: adafactor factors whole matrices, which ZeRO cuts up, got stage {self.zero_stage}; "
                "set zero_stage: 0, or optimizer: adamw",
            ),
            (
                not self.offload or self.zero_stage > 0,
                "offload: needs ZeRO stage 1, 2 or 3, got stage 0; raise zero_stage or turn offload off",
            ),
        ]
        _refuse(checks)


@dataclass(frozen=True)
class Optimisation:
    """How weights are updated. `batch_size` counts examples per optimizer step over all ranks.

    Either `epochs` or `steps` says how long; `warmup` is the share of all steps in which the learning rate rises.
    """

    lr: float
    batch_size: int
    epochs: float | None = None
    steps: int | None = None
    schedule: Schedule = "cosine"
    warmup: float = 0.1
    weight_decay: float = 0.0
    gradient_clipping: float = 1.0
    """Largest gradient norm; 0 clips nothing."""
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        one_length = (self.epochs is None) != (self.steps is None)
        checks = [
            (self.lr > 0, f"lr: must be above 0, got {self.lr}"),
            (self.batch_size >= 1, f"batch_size: must be at least 1, got {self.batch_size}"),
            (one_length, f"epochs, steps: give exactly one, got epochs={self.epochs}, steps={self.steps}"),
            (self.epochs is None or self.epochs > 0, f"epochs: must be above 0, got {self.epochs}"),
            (self.steps is None or self.steps >= 1, f"steps: must be at least 1, got {self.steps}"),
            (
                self.schedule in ("linear", "cosine", "constant"),
                f"schedule: got {self.schedule!r}; allowed linear, cosine, constant",
            ),
            (0 <= self.warmup < 1, f"warmup: must be in [0, 1), got {self.warmup}"),
            (self.gradient_clipping >= 0, f"gradient_clipping: must be at least 0, got {self.gradient_clipping}"),
        ]
        _refuse(checks)


@dataclass(frozen=True)
class Run:
    """One trial's training: a method with its hyperparameters, an optimisation, and the seed of its data order."""

    method: str
    hyperparameters: Mapping[str, float | int | str | bool]
    optimisation: Optimisation
    seed: int = 0


def _refuse(checks: list[tuple[bool, str]]) -> None:
    """All broken rules at once, one line each."""
    problems = [f"training.{message}" for holds, message in checks if not holds]
    if problems:
        raise StudyError("\n".join(problems))
