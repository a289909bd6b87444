"""What one trial trains on: its tokens, and what frozen policies say of them, from the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raypo.data.keys import logps_key
from raypo.data.mismatch import mismatched
from raypo.data.tokens import TokenSet
from raypo.search.materials import Materials, Tokens
from raypo.search.together import made_together, rank
from raypo.spaces import Value
from raypo.study import Entry
from raypo.training.frozen import frozen_logps
from raypo.training.trainer import Trainer


@dataclass(frozen=True)
class Inputs:
    """Tokens with the arrays that go with them: "reference" and "mismatched" log-probs, "embeddings"."""

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
        others = mismatched(tokens.set, int(tokens.set.lengths.max()))
        key = {**tokens.key, "mismatched": True}
        frozen["mismatched"] = reference_logps(materials, trainer, Tokens(others, key))
    if "embeddings" in needs:
        frozen["embeddings"] = materials.embeddings(tokens, point, method.data)  # type: ignore[arg-type]
    return Inputs(tokens.set, frozen)


def reference_logps(materials: Materials, trainer: Trainer, tokens: Tokens) -> np.ndarray:
    """Log-probs of the starting model on tokenised data, memory-mapped; computed by all ranks once."""
    setup = trainer.setup
    layout: dict[str, Any] = {
        "shared_prefix": trainer.shares_prefix(tokens.set),
        "one_pass": trainer.one_pass,
    }
    key = logps_key(tokens.key, materials.start_hash, setup.dtype, **layout)

    def make(folder: Path) -> None:
        total = len(tokens.set)
        materials.say(f"reference log-probs of {total} examples")

        def say(done: int, _all: int) -> None:
            materials.say(f"reference log-probs, {done} of {total}")

        found = frozen_logps(
            trainer.reference.forward,
            tokens.set,
            layout["shared_prefix"],
            setup.micro_batch_size,
            trainer.engine.device,
            layout["one_pass"],
            say,
        )
        if rank() == 0:
            np.save(folder / "logps.npy", found, allow_pickle=False)

    folder = made_together(materials.store, "logps", key, make)
    return np.asarray(np.load(folder / "logps.npy", mmap_mode="r", allow_pickle=False))
