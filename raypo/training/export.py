"""The policy as a plain Hugging Face model: for sampling, and as a folder on disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel

from raypo.errors import StorageError
from raypo.training.engine import Engine
from raypo.training.model import DTYPES, Policy, load_lm
from raypo.training.settings import EngineSetup
from raypo.training.writing import write_alone


@contextmanager
def plain_model(engine: Engine, setup: EngineSetup) -> Iterator[PreTrainedModel]:
    """The policy in evaluation mode with a cache, whole on every rank; under ZeRO-3 a gathered copy.

    Without an adapter's wrapping, whose forward says nothing of what the model takes; its layers stay adapted.
    """
    lm: Any = engine.policy.plain if setup.zero_stage < 3 else _gathered(engine, setup)
    training = lm.training
    lm.eval()
    try:
        with torch.no_grad():
            yield lm
    finally:
        lm.train(training)


def _gathered(engine: Engine, setup: EngineSetup) -> PreTrainedModel:
    lm: Any = load_lm(setup.model_path, DTYPES[setup.dtype], setup.trust_remote_code)
    lm.to(engine.device)
    with engine.gathered(list(engine.policy.parameters())):
        lm.load_state_dict(merged_state(engine.policy))
    return lm


@torch.no_grad()
def merged_state(policy: Policy) -> dict[str, Tensor]:
    """The weights of the plain model, adapters added in; the policy's own stay untouched, for rounding would add up."""
    plain: Any = policy.plain
    state = {name.replace(".base_layer", ""): t for name, t in plain.state_dict().items() if "lora_" not in name}
    for name, layer in plain.named_modules():
        if hasattr(layer, "get_delta_weight"):
            weight = f"{name}.weight"
            state[weight] = state[weight] + layer.get_delta_weight(layer.active_adapters[0])
    return state


def export(engine: Engine, setup: EngineSetup, folder: Path) -> None:
    """Write config, safetensors and tokenizer; adapters merged.

    Raises:
        StorageError: on every rank, where the disk is full; or no weights arrive.
    """
    whole = list(engine.policy.parameters())
    with engine.gathered(whole):
        write_alone(lambda: _write(engine.policy, setup, folder), f"{folder}: the model")
    if not list(folder.glob("*.safetensors")):
        raise StorageError(f"{folder}: export left no safetensors there; is the folder shared by all workers?")


def _write(policy: Policy, setup: EngineSetup, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    plain: Any = policy.plain
    plain.save_pretrained(folder, state_dict=merged_state(policy))
    if _has_tokenizer(setup.model_path):
        tokenizer = AutoTokenizer.from_pretrained(setup.model_path, trust_remote_code=setup.trust_remote_code)
        tokenizer.save_pretrained(folder)


def _has_tokenizer(path: str) -> bool:
    folder = Path(path)
    return not folder.is_dir() or any(folder.glob("tokenizer*"))
