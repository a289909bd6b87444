"""The policy as a plain Hugging Face model: for sampling, and as a folder on disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel

from raypo.errors import StorageError
from raypo.training import comm
from raypo.training.engine import Engine
from raypo.training.model import DTYPES, is_adapted, load_lm
from raypo.training.settings import EngineSetup


@contextmanager
def plain_model(engine: Engine, setup: EngineSetup) -> Iterator[PreTrainedModel]:
    """The policy in evaluation mode with a cache, whole on every rank; under ZeRO-3 a gathered copy."""
    lm: Any = engine.policy.lm if setup.zero_stage < 3 else _gathered(engine, setup)
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
    with engine.gathered(list(engine.policy.parameters())), torch.no_grad():
        for mine, theirs in zip(lm.parameters(), engine.policy.plain.parameters(), strict=True):
            mine.copy_(theirs)
    return lm


def export(engine: Engine, setup: EngineSetup, folder: Path) -> None:
    """Write config, safetensors and tokenizer; adapters merged. Raises StorageError if no weights arrive."""
    with plain_model(engine, setup) as lm:
        if comm.rank() == 0:
            _write(lm, setup, folder)
    comm.barrier()
    if not list(folder.glob("*.safetensors")):
        raise StorageError(f"{folder}: export left no safetensors there; is the folder shared by all workers?")


def _write(lm: Any, setup: EngineSetup, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    adapted = is_adapted(lm)
    if adapted:
        lm.merge_adapter()
    plain = lm.get_base_model() if adapted else lm
    state = {name.replace(".base_layer", ""): t for name, t in plain.state_dict().items() if "lora_" not in name}
    plain.save_pretrained(folder, state_dict=state)
    if adapted:
        lm.unmerge_adapter()
    if _has_tokenizer(setup.model_path):
        tokenizer = AutoTokenizer.from_pretrained(setup.model_path, trust_remote_code=setup.trust_remote_code)
        tokenizer.save_pretrained(folder)


def _has_tokenizer(path: str) -> bool:
    folder = Path(path)
    return not folder.is_dir() or any(folder.glob("tokenizer*"))
