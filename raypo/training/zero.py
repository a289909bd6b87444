"""DeepSpeed's ZeRO 1-3 as an engine. The only file that imports DeepSpeed.

Facts it rests on (DeepSpeed 0.19): a torch.optim optimizer passed in needs no compiler; the accumulation boundary is
set by hand, so a step may have any number of micro-batches; gradients are averaged over ranks, so losses are
multiplied by their number; ZeRO 1 and 2 keep fp32 masters apart from the weights even in fp32.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from raypo.errors import StorageError
from raypo.training import comm
from raypo.training.layout import Pass
from raypo.training.model import Forward, Policy, load_policy
from raypo.training.optim import configure, make_optimizer, set_lr
from raypo.training.settings import EngineSetup, Optimisation
from raypo.training.universal import convert, ranks_of
from raypo.training.unpickling import pickle_stages_by_value, tensors_only

TAG = "engine"


class ZeroEngine:
    """A policy under DeepSpeed."""

    def __init__(self, setup: EngineSetup, critic: bool) -> None:
        import deepspeed

        _ensure_process_group()
        self.setup, self.stage = setup, setup.zero_stage
        with _partitioned_loading(zero_config(setup, 0)):
            policy = load_policy(setup, critic)
        count = sum(getattr(p, "ds_numel", p.numel()) for p in policy.parameters())
        optimizer = make_optimizer(setup.optimizer, policy.parameters())
        self.engine, *_ = deepspeed.initialize(model=policy, optimizer=optimizer, config=zero_config(setup, count))
        self.policy: Policy = self.engine.module
        self.device = comm.device()
        self.trainable = [p for p in self.policy.parameters() if p.requires_grad]
        self.start = [tensor.cpu().clone() for tensor in self.local()]

    @property
    def _zero(self) -> Any:
        return self.engine.optimizer

    def local(self) -> list[Tensor]:
        return local(self.trainable)

    def forward(self, passes: tuple[Pass, ...]) -> Forward:
        return Forward(*self.engine(passes))

    def backward(self, loss: Tensor, last: bool) -> None:
        self.engine.set_gradient_accumulation_boundary(last)
        self.engine.backward(loss * comm.world(), scale_wrt_gas=False)

    def step(self, lr: float) -> float:
        set_lr(self._zero.optimizer, lr)
        self.engine.step()
        return float(self.engine.get_global_grad_norm())

    @torch.no_grad()
    def reset(self, optimisation: Optimisation) -> None:
        zero = self._zero
        zero.zero_grad()
        if self.stage == 3:
            zero._partition_all_parameters()
        for tensor, start in zip(self.local(), self.start, strict=True):
            tensor.copy_(start)
        zero.refresh_fp32_params()
        if self.stage == 3 and zero.persistent_parameters:
            zero.persistent_parameters[0].all_gather(zero.persistent_parameters)
        zero.optimizer.state.clear()
        zero._hp_optimizer_states_linked = False
        zero.clip_grad = optimisation.gradient_clipping
        configure(zero.optimizer, optimisation)
        self.engine.micro_steps = self.engine.global_steps = self.engine.global_samples = 0

    def gathered(self, parameters: list[nn.Parameter]) -> AbstractContextManager[None]:
        import deepspeed

        whole: AbstractContextManager[None] = deepspeed.zero.GatheredParameters(list(dict.fromkeys(parameters)))
        return whole if self.stage == 3 else nullcontext()

    def save(self, folder: Path) -> None:
        with _errors_after_barriers(self.engine):
            self.engine.save_checkpoint(
                str(folder), tag=TAG, save_latest=False, exclude_frozen_parameters=self.setup.lora is not None
            )

    def load(self, folder: Path) -> None:
        ranks = ranks_of(folder / TAG)
        if ranks == 0:
            raise StorageError(
                f"{folder}: no checkpoint of DeepSpeed here; resume with the ZeRO stage it was saved with"
            )
        with tensors_only(folder):
            if ranks == comm.world():
                self.engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=self.setup.lora is None)
            else:
                self._load_universal(folder)

    def _load_universal(self, folder: Path) -> None:
        """Load what another number of ranks saved; ZeRO-3 needs mending afterwards (see the comments)."""
        if self.stage == 3 and self.setup.optimizer != "adamw":
            raise StorageError(f"{folder}: ZeRO-3 carries only AdamW to another number of workers; resume with as many")
        tag = convert(folder, TAG)
        adam = self._zero.optimizer
        groups = [{k: v for k, v in group.items() if k != "params"} for group in adam.param_groups]
        self.engine._config.load_universal_checkpoint = True
        if self.stage < 3:
            self._zero._enable_universal_checkpoint()
        try:
            self.engine.load_checkpoint(str(folder), tag=tag)
        finally:
            self.engine._config.load_universal_checkpoint = False
        self._zero._hp_optimizer_states_linked = False
        for group, own in zip(adam.param_groups, groups, strict=True):
            group.update(own)  # every group has been given the first one's numbers
        for state in adam.state.values():
            state["step"] = state["step"].clone()  # one counter has been shared by all, and would count twice a step

    def close(self) -> None:
        self.engine.destroy()


@contextmanager
def _errors_after_barriers(engine: Any) -> Iterator[None]:
    """Have a rank whose files cannot be written meet the others in DeepSpeed's barriers, and raise after the last."""
    errors: list[Exception] = []

    def kept(write: Callable[..., Any]) -> Callable[..., Any]:
        def attempt(*args: Any, **kwargs: Any) -> None:
            try:
                write(*args, **kwargs)
            except Exception as error:
                errors.append(error)

        return attempt

    writer = engine.checkpoint_engine
    writer.save, engine._copy_recovery_script = kept(writer.save), kept(engine._copy_recovery_script)
    try:
        yield
    finally:
        del writer.save, engine._copy_recovery_script  # what hid the class's own
    if errors:
        raise errors[0]


def local(parameters: list[nn.Parameter]) -> list[Tensor]:
    """What this rank holds of each parameter between steps: its partition under ZeRO-3, else all of it."""
    return [getattr(p, "ds_tensor", p).detach() for p in parameters]


def zero_config(setup: EngineSetup, parameters: int) -> dict[str, Any]:
    """DeepSpeed's configuration; buckets no larger than the model, for they are allocated at once.

    On a CPU a bucket fits the caches, for every gradient is copied through it, and is summed where it lies: what is
    called scattering would copy it once more to sum it over all ranks just the same.
    """
    even = max(2, parameters + parameters % 2)  # ZeRO 1 and 2 take no bucket of an odd size
    bucket = min(even, 5 * 10**8 if torch.cuda.is_available() else 2 * 10**6)
    stage: dict[str, Any] = {
        "stage": setup.zero_stage,
        "overlap_comm": torch.cuda.is_available(),
        "contiguous_gradients": True,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
        "reduce_scatter": torch.cuda.is_available(),
    }
    if setup.offload:
        stage["offload_optimizer"] = {"device": "cpu"}
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": setup.micro_batch_size,
        "gradient_accumulation_steps": 1,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
        "bf16": {"enabled": setup.dtype == "bf16"},
        "zero_optimization": stage,
    }
    if setup.zero_stage > 1 and setup.dtype == "bf16":
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config


def _ensure_process_group() -> None:
    """DeepSpeed wants a process group and a local rank even when alone; its shared-memory collectives need g++."""
    import deepspeed

    pickle_stages_by_value()
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    os.environ.setdefault("LOCAL_RANK", "0")
    if not dist.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)


@contextmanager
def _partitioned_loading(config: dict[str, Any]) -> Iterator[None]:
    """Under ZeRO-3, let Hugging Face load a model straight into partitions."""
    if config["zero_optimization"]["stage"] != 3:
        yield
        return
    from transformers.integrations import HfDeepSpeedConfig

    keep = HfDeepSpeedConfig(config)
    yield
    del keep


def inference_engine(setup: EngineSetup) -> Any:
    """A partitioned model without an optimizer, for a live reference beside a ZeRO-3 policy."""
    import deepspeed

    config = zero_config(setup, 1)
    config["zero_optimization"] = {"stage": 3, "stage3_param_persistence_threshold": 0}
    with _partitioned_loading(config):
        policy = load_policy(setup).requires_grad_(False).eval()
    engine, *_ = deepspeed.initialize(model=policy, config=config)
    return engine
