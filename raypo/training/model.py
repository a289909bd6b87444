"""Loading a causal LM for training: safetensors only, dropout off, a head that scores tokens, an optional adapter."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from raypo.errors import ModelError
from raypo.training import branches
from raypo.training.layout import Pass
from raypo.training.logprobs import HeadShape, scores_of_targets
from raypo.training.settings import EngineSetup, Lora

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Head(nn.Linear):
    """An LM head that, given targets, returns their scores (see `scores_of_targets`) without ever forming all logits.

    Being a module's own forward, it sees gathered weights under ZeRO-3.
    """

    shape: HeadShape

    @classmethod
    def replacing(cls, linear: nn.Linear, shape: HeadShape) -> Head:
        """A head with the very parameters of `linear`."""
        head = cls(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        head.weight, head.shape = linear.weight, shape
        if linear.bias is not None:
            head.bias = linear.bias
        return head

    def frozen(self) -> Head:
        """A copy that keeps the present weights, which must be whole; the head itself where it is not trained."""
        if not self.weight.requires_grad:
            return self
        twin = Head.replacing(self, self.shape)
        for name, p in self.named_parameters():
            setattr(twin, name, nn.Parameter(p.detach().clone(), requires_grad=False))
        return twin

    def forward(self, hidden: Tensor, targets: Tensor | None = None) -> Any:
        if targets is None:
            return super().forward(hidden)
        return scores_of_targets(hidden, self, targets, self.shape)


@dataclass(frozen=True)
class Forward:
    """What one forward pass gives for S scored tokens: logps [S] fp32, the hidden [S, D] that gave them, value [S].

    `spread` [2, S]: mean logit over the vocabulary and entropy (nats), no gradient; None where nothing is trained.
    """

    logps: Tensor
    hidden: Tensor
    value: Tensor | None
    spread: Tensor | None = None


class Policy(nn.Module):
    """A causal LM whose forward turns passes into the log-probs of their scored tokens, with a critic where asked."""

    def __init__(self, lm: PreTrainedModel, critic: bool = False) -> None:
        super().__init__()
        self.lm = lm
        self.critic: nn.Linear | None = None
        if critic:
            self.critic = nn.Linear(lm.config.hidden_size, 1, dtype=lm.dtype)
            nn.init.zeros_(self.critic.weight)
            nn.init.zeros_(self.critic.bias)

    @property
    def plain(self) -> PreTrainedModel:
        """The Hugging Face model, without an adapter's wrapping (its adapted layers stay adapted)."""
        lm: Any = self.lm
        plain: PreTrainedModel = lm.get_base_model() if is_adapted(lm) else lm
        return plain

    @property
    def head(self) -> Head:
        plain: Any = self.plain
        head: Head = plain.get_output_embeddings()
        return head

    def adapter_off(self) -> AbstractContextManager[None]:
        """Context in which the model is its start again; nothing to do without an adapter."""
        lm: Any = self.lm
        off: AbstractContextManager[None] = lm.disable_adapter() if is_adapted(lm) else nullcontext()
        return off

    def hidden(self, p: Pass) -> Tensor:
        """[S, D] the hidden states that predict the scored tokens."""
        inputs: dict[str, Any] = {"input_ids": p.ids, "use_cache": False}
        if p.positions is not None:
            inputs |= {"attention_mask": self._mask(p), "position_ids": p.positions}
        states = self.plain.base_model(**inputs).last_hidden_state
        return states.flatten(0, 1).index_select(0, p.where)

    def _mask(self, p: Pass) -> Tensor | None:
        """What the model's attention takes: True where a token may look, or a term to add to its scores."""
        if p.spans:
            return branches.mask_of(p.spans, self.plain.dtype)
        allowed = p.attention()
        if allowed is None or self.plain.config._attn_implementation != "eager":
            return allowed
        dtype = self.plain.dtype
        return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(
            ~allowed, torch.finfo(dtype).min
        )

    def forward(self, passes: tuple[Pass, ...]) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """The fields of a `Forward`, passes one after another."""
        hidden = torch.cat([self.hidden(p) for p in passes])
        logps, spread = self.head(hidden, torch.cat([p.targets for p in passes]))
        return logps, hidden, None if self.critic is None else self.critic(hidden).squeeze(-1).float(), spread


def is_adapted(lm: nn.Module) -> bool:
    """Whether `lm` carries a peft adapter."""
    return hasattr(lm, "peft_config")


def load_policy(setup: EngineSetup, critic: bool = False) -> Policy:
    """The model of a setup, in training mode with every dropout at 0, with its adapter if it has one."""
    lm = load_lm(setup.model_path, DTYPES[setup.dtype], setup.trust_remote_code)
    if setup.lora is not None:
        lm = _adapt(lm, setup.lora)
    if setup.gradient_checkpointing:
        lm.gradient_checkpointing_enable({"use_reentrant": False})
        if setup.lora is not None:
            lm.enable_input_require_grads()
    return Policy(lm, critic).train()


def load_lm(path: str, dtype: torch.dtype, trust_remote_code: bool = False) -> PreTrainedModel:
    """A causal LM from a folder or hub id, weights from safetensors only, on the CPU."""
    _refuse_odd_folders(path)
    logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
        for name in vars(config):
            if "dropout" in name or name.endswith("pdrop"):
                setattr(config, name, 0.0)
        lm = AutoModelForCausalLM.from_pretrained(
            path, config=config, dtype=dtype, use_safetensors=True, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"model {path}: cannot be loaded, got {type(error).__name__}: {str(error).splitlines()[0]}; "
            "needs a causal LM with config.json and safetensors weights"
        ) from error
    if not torch.cuda.is_available():
        branches.set_up(lm)
    linear = lm.get_output_embeddings()
    if not isinstance(linear, nn.Linear):
        raise ModelError(f"model {path}: its LM head is no linear layer, got {type(linear).__name__}")
    lm.set_output_embeddings(Head.replacing(linear, HeadShape.of(config)))
    return lm


def _refuse_odd_folders(path: str) -> None:
    folder = Path(path)
    if not folder.is_dir():
        return
    if (folder / "adapter_config.json").exists():
        base = json.loads((folder / "adapter_config.json").read_text()).get("base_model_name_or_path")
        raise ModelError(
            f"model {path}: is an adapter of {base}; turning it off would not give the start model back, so it cannot "
            "be its own reference. Merge it first (peft: merge_and_unload, save_pretrained)"
        )
    if not (folder / "config.json").exists():
        raise ModelError(f"model {path}: is no model folder, config.json is missing")


def _adapt(lm: PreTrainedModel, lora: Lora) -> Any:
    from peft import LoraConfig, get_peft_model

    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=0.0, target_modules=targets, bias="none")
    with torch.random.fork_rng():
        torch.manual_seed(0)  # an adapter starts from noise: the same on every rank and in every process
        adapted = get_peft_model(lm, config)
    plain: Any = adapted.get_base_model()
    head = plain.get_output_embeddings()
    outside = [n for n, p in adapted.named_parameters() if p.requires_grad and "lora_" not in n]
    if outside or not isinstance(head, Head):
        raise ModelError(
            f"lora.targets: the adapter touches {outside or ['the LM head']}; with the adapter off the reference would "
            'not be the start model. Target linear layers inside the model, e.g. "all-linear"'
        )
    return adapted
