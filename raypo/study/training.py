"""Sections `model`, `data` and `training`: what is trained, on what, and how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from raypo.data.rendering import checked_template
from raypo.study.values import Count, NonNegative, Number, Positive, Section, Seed, axis, named


class Lora(Section):
    rank: Count = 16
    alpha: Positive = 32.0
    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"


class TinyModel(Section):
    """A tokenizer and a small Llama built from text, where no pretrained model is at hand."""

    text: str
    vocabulary: Count = 2048
    hidden: Count = 192
    layers: Count = 4
    heads: Count = 4
    steps: Count = 400
    batch_size: Count = 32
    length: Count = 128
    lr: Positive = 2e-3


class Sft(Section):
    """Supervised fine-tuning before the search: `on` says which answers of the data (or of `source`)."""

    on: Literal["chosen", "both"] = "chosen"
    source: str | None = None
    count: Count | None = None
    epochs: Positive = 1.0
    lr: Positive = 2e-5
    batch_size: Count = 64
    optimizer: Literal["adamw", "rmsprop", "adafactor"] = "adamw"
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Annotated[Number, Field(ge=0, lt=1)] = 0.1
    gradient_clipping: NonNegative = 1.0


class Model(Section):
    path: str | None = None
    build: TinyModel | None = None
    dtype: Literal["fp32", "bf16"] = "fp32"
    trust_remote_code: bool = False
    lora: Lora | None = None
    gradient_checkpointing: bool = False
    sft: Sft | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> Model:
        if (self.path is None) == (self.build is None):
            raise ValueError("needs either path (a folder, a hub id or quickstart) or build, and not both")
        return self


class Data(Section):
    source: str
    split: str = "train"
    format: str | dict[str, dict[str, Any]] = "auto"
    columns: dict[str, str] = Field(default_factory=dict)
    count: Count | None = None
    transforms: tuple[dict[str, Any], ...] = ()
    max_length: Count = 1024
    max_prompt_length: Count | None = None
    truncation: Literal["prompt_start", "prompt_end", "completion_end", "drop"] = "prompt_start"
    chat_template: Annotated[str, AfterValidator(checked_template)] | None = None
    seed: Seed = 0
    heldout: Annotated[Number, Field(ge=0, lt=1)] = 0.05
    encoder: str = "hashing"

    @model_validator(mode="before")
    @classmethod
    def _axes(cls, values: Any) -> Any:
        """Transforms such as {fraction: {choice: [0.25, 1]}} may be searched over."""
        for transform in values.get("transforms") or () if isinstance(values, dict) else ():
            if not isinstance(transform, dict) or len(transform) != 1:
                raise ValueError(f"each transform is one key with its setting, got {transform!r}")
        return values


def two_lengths(values: Mapping[str, Any]) -> str | None:
    """What is wrong where a section says both how many passes and how many steps a training takes."""
    epochs, steps = values.get("epochs"), values.get("steps")
    if epochs is None or steps is None:
        return None
    return f"epochs and steps both say how long to train, got {epochs!r} and {steps!r}; keep one of them"


class Training(Section):
    """How a policy is trained; the numbers that say how it learns may be axes.

    hidden_budget_gib: methods that need the reference's full distribution read its last hidden states from the store
    where these take no more than this, and keep of the reference its LM head alone; 0 computes them anew at every step.
    """

    lr: axis(0) = 5e-7  # type: ignore[valid-type]
    epochs: axis(0) | None = 1.0  # type: ignore[valid-type]
    steps: axis(0, whole=True) | None = None  # type: ignore[valid-type]
    batch_size: axis(0, whole=True) = 64  # type: ignore[valid-type]
    micro_batch_size: Count = 8
    optimizer: named("adamw", "rmsprop", "adafactor") = "adamw"  # type: ignore[valid-type]
    schedule: named("cosine", "linear", "constant") = "cosine"  # type: ignore[valid-type]
    warmup: axis(0, 1, open_low=False) = 0.1  # type: ignore[valid-type]
    weight_decay: axis(0, open_low=False) = 0.0  # type: ignore[valid-type]
    gradient_clipping: axis(0, open_low=False) = 1.0  # type: ignore[valid-type]
    adam_beta1: axis(0, 1) = 0.9  # type: ignore[valid-type]
    adam_beta2: axis(0, 1) = 0.999  # type: ignore[valid-type]
    checkpoint_every_s: Positive = 300.0
    hidden_budget_gib: NonNegative = 0.0

    @model_validator(mode="before")
    @classmethod
    def _one_length(cls, values: Any) -> Any:
        """Where `steps` are given, there are no epochs; where neither is, there is the default."""
        if not isinstance(values, dict):
            return values
        if (problem := two_lengths(values)) is not None:
            raise ValueError(problem)
        if values.get("steps") is not None:
            return {**values, "epochs": None}
        return {name: value for name, value in values.items() if (name, value) != ("epochs", None)}
