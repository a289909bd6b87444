"""What one trial trains on: its tokens, and what frozen policies say of them, from the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from raypo.data.keys import logps_key
from raypo.data.mismatch import mismatched
from raypo.data.tokens import TokenSet
from raypo.search.materials import Materials, Tokens
from raypo.search.together import made_together, rank
from raypo.spaces import Value
from raypo.study import Entry
from raypo.training.frozen import frozen_hidden, frozen_logps
from raypo.training.model import DTYPES
from raypo.training.needs import LIVE_REFERENCE
from raypo.training.trainer import Trainer


@dataclass(frozen=True)
class Inputs:
    """Tokens with the arrays that go with them: "reference" and "mismatched" log-probs, "hidden", "embeddings"."""

    tokens: TokenSet
    frozen: Mapping[str, np.ndarray]


def trial_inputs(materials: Materials, trainer: Trainer, entry: Entry, point: Mapping[str, Value]) -> Inputs:
    """The inputs of a trial; whatever another trial or search has made already is only opened."""
    method = entry.method
    tokens = materials.training_tokens(method.data, point)  # type: ignore[arg-type]
    needs = method.needs_for(**{k: v for k, v in point.items() if k in method.hyperparameters})
    frozen: dict[str, np.ndarray] = {}
    if "reference" in needs:
        frozen["reference"] = reference_logps(materials, trainer, tokens)
    if "mismatched" in needs:
        others = mismatched(tokens.set, tokens.set.longest)
        key = {**tokens.key, "mismatched": True}
        frozen["mismatched"] = reference_logps(materials, trainer, Tokens(others, key))
    if LIVE_REFERENCE & set(needs) and _fit(materials, trainer, tokens):
        frozen["hidden"] = reference_hidden(materials, trainer, tokens)
    if "embeddings" in needs:
        frozen["embeddings"] = materials.embeddings(tokens, point, method.data)  # type: ignore[arg-type]
    return Inputs(tokens.set, frozen)


def reference_logps(materials: Materials, trainer: Trainer, tokens: Tokens) -> np.ndarray:
    """Log-probs of the starting model on tokenised data, memory-mapped; computed by all ranks once."""
    return _frozen(materials, trainer, tokens, "logps", frozen_logps)


def reference_hidden(materials: Materials, trainer: Trainer, tokens: Tokens) -> np.ndarray:
    """Last hidden states of the starting model on tokenised data, memory-mapped; computed by all ranks once."""
    return _frozen(materials, trainer, tokens, "hidden", frozen_hidden)


def _fit(materials: Materials, trainer: Trainer, tokens: Tokens) -> bool:
    """Whether the hidden states of all scored tokens take no more than the study grants them."""
    wide = trainer.engine.policy.head.in_features * DTYPES[trainer.setup.dtype].itemsize
    return int(tokens.set.mask.sum()) * wide <= materials.study.training.hidden_budget_gib * 2**30


def _frozen(
    materials: Materials, trainer: Trainer, tokens: Tokens, kind: str, compute: Callable[..., np.ndarray]
) -> np.ndarray:
    setup = trainer.setup
    layout = trainer.layout(tokens.set)
    key = logps_key(tokens.key, materials.start_hash, setup.dtype, **asdict(layout))

    def make(folder: Path) -> None:
        total = len(tokens.set)
        what = "log-probs" if kind == "logps" else "hidden states"
        materials.say(f"reference {what} of {total} examples")

        def say(done: int, _all: int) -> None:
            materials.say(f"reference {what}, {done} of {total}")

        found = compute(
            trainer.reference.forward,
            tokens.set,
            layout,
            setup.micro_batch_size,
            trainer.engine.device,
            say,
        )
        if rank() == 0:
            np.save(folder / f"{kind}.npy", found, allow_pickle=False)

    folder = made_together(materials.store, kind, key, make)
    return np.asarray(np.load(folder / f"{kind}.npy", mmap_mode="r", allow_pickle=False))
