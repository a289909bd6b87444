"""Forecasts for a plan: the memory of a worker, and a probe of how fast this machine trains and answers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from raypo.data.mismatch import mismatched
from raypo.data.tokens import TokenSet
from raypo.evaluation.sampling import sample
from raypo.search.decoding import sampling_of
from raypo.search.materials import Materials
from raypo.spaces import Space
from raypo.study import Study
from raypo.training.settings import EngineSetup, Lora, Optimisation, Run
from raypo.training.trainer import Trainer

GIB = 2**30
STEPS = 3
"""Optimizer steps that are timed, after one that is not."""
ANSWERS = 8
_ACTIVATIONS_PER_TOKEN = 34
"""Bytes per hidden unit and layer in 16 bit, without the attention scores (Korthikanti et al., 2022, equation 2)."""


@dataclass(frozen=True)
class Probe:
    """Device-seconds per token that each method trains on, and per answer of an evaluation."""

    token_s: Mapping[str, float]
    answer_s: float


@dataclass(frozen=True)
class Memory:
    """GiB of one worker: model states by DeepSpeed's estimators, activations roughly.

    `device` holds weights, gradients and optimizer state, `start_model` the copy that policies are compared with,
    `host` what offloading keeps in main memory.
    """

    parameters: int
    device: float
    start_model: float
    activations: float
    host: float

    @property
    def total(self) -> float:
        return self.device + self.start_model + self.activations


def memory_of(materials: Materials, tokens: Mapping[str, TokenSet]) -> Memory:
    """The memory of a worker, from the model's configuration and the longest examples."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    study = materials.study
    trusted = study.model.trust_remote_code
    config = AutoConfig.from_pretrained(materials.base, trust_remote_code=trusted)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trusted)
    total = sum(p.numel() for p in model.parameters())
    largest = max(sum(p.numel() for p in module.parameters(recurse=False)) for module in model.modules())
    device, host = model_states(study, total, largest, _trainable(study, model, total))
    width = 2 if study.model.dtype == "bf16" else 4
    share = study.resources.workers if study.resources.zero_stage == 3 else 1
    longest = max(float(np.quantile(found.example_lengths(), 0.95)) for found in tokens.values())
    hidden, layers = int(config.hidden_size), int(config.num_hidden_layers)
    kept = (
        2 * layers + _ACTIVATIONS_PER_TOKEN if study.model.gradient_checkpointing else _ACTIVATIONS_PER_TOKEN * layers
    )
    activations = longest * study.training.micro_batch_size * hidden * kept * width / 2
    copy = 0.0 if study.model.lora else total * width / share
    return Memory(total, device / GIB, copy / GIB, activations / GIB, host / GIB)


def model_states(study: Study, total: int, largest: int, trainable: int) -> tuple[float, float]:
    """Bytes on the device and in main memory for weights, gradients and optimizer state of one worker.

    Stages 2 and 3 are DeepSpeed's estimators; stage 1 keeps whole gradients beside them; stage 0 is four fp32 copies.
    Frozen weights under an adapter come on top.
    """
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    wanted = study.resources
    width = 2 if study.model.dtype == "bf16" else 4
    frozen = (total - trainable) * width
    if wanted.zero_stage == 0:
        return 16.0 * trainable + frozen, 0.0
    if wanted.zero_stage == 3:
        host, device, _ = estimate_zero3_model_states_mem_needs(
            trainable, min(largest, trainable), wanted.workers, 1, wanted.offload, cpu_offload_params=False
        )
        return device + frozen / wanted.workers, host if wanted.offload else 0.0
    host, device = estimate_zero2_model_states_mem_needs(trainable, wanted.workers, 1, wanted.offload)
    whole = 2 * trainable * (1 - 1 / wanted.workers) if wanted.zero_stage == 1 else 0.0
    return device + whole + frozen, host if wanted.offload else 0.0


def _trainable(study: Study, model: Any, total: int) -> int:
    """Weights that are trained: all, or two low-rank factors beside each adapted linear layer."""
    import torch

    lora = study.model.lora
    if lora is None:
        return total
    head = model.get_output_embeddings()
    found = 0
    for name, module in model.named_modules():
        chosen = module is not head if lora.targets == "all-linear" else name.rsplit(".", 1)[-1] in lora.targets
        if isinstance(module, torch.nn.Linear) and chosen:
            found += lora.rank * (module.in_features + module.out_features)
    return found


def probe(materials: Materials, tokens: Mapping[str, TokenSet], say: Callable[[str], None]) -> Probe:
    """Train a few steps of every method, on the real model and data, and answer a few prompts, in this process."""
    study = materials.study
    token_s = {}
    with _threads_of_a_worker(study), contextlib.closing(Trainer(_setup(study, str(materials.base)))) as trainer:
        for label, found in tokens.items():
            say(f"probing: {STEPS + 1} steps of {label} in this process")
            token_s[label] = _train(trainer, study, label, found)
        say(f"probing: {ANSWERS} answers in this process")
        return Probe(token_s, _answer(trainer, materials))


@contextlib.contextmanager
def _threads_of_a_worker(study: Study) -> Iterator[None]:
    """As many threads as Ray gives a worker, which has no more of its machine than is set aside for it."""
    import torch

    own = torch.get_num_threads()
    torch.set_num_threads(min(own, max(1, int(study.resources.cpus_per_worker))))
    try:
        yield
    finally:
        torch.set_num_threads(own)


def _train(trainer: Trainer, study: Study, label: str, tokens: TokenSet) -> float:
    entry = study.methods[label]
    point = {n: v.values[0] if isinstance(v, Space) else v for n, v in entry.hyperparameters.items()}
    batch = 2 * study.training.micro_batch_size
    run = Run(entry.reference, point, Optimisation(lr=1e-9, batch_size=batch, steps=STEPS + 1))
    trainer.begin(run, tokens, _blank(entry.method.needs_for(**point), tokens), allow_code=study.allow_code)
    trainer.train(1)
    began = time.monotonic()
    trainer.train(STEPS + 1)
    spent = time.monotonic() - began
    lengths = tokens.example_lengths()
    return spent / sum(int(lengths[trainer.running.plan.at(step)].sum()) for step in range(1, STEPS + 1))


def _blank(needs: tuple[str, ...], tokens: TokenSet) -> dict[str, np.ndarray]:
    """Zeros in the place of what the store will have: their values cost no time."""
    made = {"reference": lambda: np.zeros(len(tokens.ids), np.float32)}
    made["mismatched"] = lambda: np.zeros(len(mismatched(tokens, tokens.longest).ids), np.float32)
    made["embeddings"] = lambda: np.ones((len(tokens), 8), np.float32) / np.sqrt(8)
    return {name: make() for name, make in made.items() if name in needs}


def _answer(trainer: Trainer, materials: Materials) -> float:
    sampling = sampling_of(materials.study, materials.base)
    prompts = [prompt.text for prompt in materials.prompts()[:ANSWERS]]
    began = time.monotonic()
    with trainer.policy() as model:
        made = sample(model, materials.tokenizer, prompts, sampling, chat_template=materials.study.data.chat_template)
    trainer.sample_logps([(list(c.prompt_tokens), list(c.tokens)) for c in made])
    return (time.monotonic() - began) / len(prompts)


def _setup(study: Study, model: str) -> EngineSetup:
    return EngineSetup(
        model_path=model,
        dtype=study.model.dtype,
        zero_stage=study.resources.zero_stage,
        micro_batch_size=study.training.micro_batch_size,
        lora=Lora(**study.model.lora.model_dump()) if study.model.lora else None,
        gradient_checkpointing=study.model.gradient_checkpointing,
        offload=study.resources.offload,
        trust_remote_code=study.model.trust_remote_code,
    )
