"""The driver that chaos kills: begins a search, or goes on with it, and exits 0 when it has ended.

python tests/chaos/search.py STORAGE NAME SEED TRIALS [--address HOST:PORT] [--real] [--resources JSON] [--pruner NAME]
                            [--host NAME]

STORAGE is a folder, or `file://` and a folder for an object store.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
STUBBED: dict[str, Any] = {
    "model": {"path": "quickstart"},
    "data": {"source": "quickstart"},
    "training": {"lr": 1e-4, "batch_size": 8},
    "methods": {
        "dpo": {"beta": {"log_uniform": [0.01, 1.0]}},
        "simpo": {"beta": {"log_uniform": [0.01, 1.0]}, "gamma_beta_ratio": 0.5},
    },
    "objective": {"judge": {"kind": "rule", "function": "quickstart"}, "at": [1 / 3, 2 / 3, 1.0]},
    "resources": {"slots": 2, "workers": 2},
    "tracking": {"wandb": "disabled"},
}
REAL: dict[str, Any] = {
    **STUBBED,
    "model": {"path": "quickstart", "sft": {"count": 640, "epochs": 1, "lr": 4e-3, "batch_size": 64}},
    "data": {"source": "quickstart", "count": 400, "max_length": 64},
    "training": {
        "steps": 16,
        "lr": {"log_uniform": [5e-5, 3e-3]},
        "batch_size": 32,
        "micro_batch_size": 16,
        "checkpoint_every_s": 0.1,
    },
    "objective": {**STUBBED["objective"], "prompts": {"count": 24}, "sampling": {"max_new_tokens": 25}},
    "resources": {"slots": 1, "workers": 2},
}


def study_of(words: argparse.Namespace) -> Any:
    from raypo.study import build

    shape = REAL if words.real else STUBBED
    content = {
        **shape,
        "resources": {**shape["resources"], **words.resources},
        "name": words.name,
        "storage": words.storage,
        "search": {"trials": words.trials // 2, "sampler": "tpe", "pruner": words.pruner, "seed": words.seed},
    }
    return build(content, words.name)


def without_cuda() -> None:
    """Nodes that only claim to have GPUs: their ranks talk over gloo."""
    import ray.train.torch

    real = ray.train.torch.TorchConfig
    ray.train.torch.TorchConfig = lambda backend, **also: real(backend="gloo", **also)  # type: ignore[misc, assignment] # noqa: ARG005


class Silent:
    """A watcher that says what stage the search is at."""

    def started(self, *_: Any) -> None: ...
    def running(self, *_: Any) -> None: ...
    def event(self, *_: Any) -> None: ...
    def ended(self, *_: Any) -> None: ...

    def stage(self, text: str) -> None:
        print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("storage")
    parser.add_argument("--pruner", default="median")
    parser.add_argument("name")
    parser.add_argument("seed", type=int)
    parser.add_argument("trials", type=int)
    parser.add_argument("--address")
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--resources", type=json.loads, default={})
    parser.add_argument("--host", help="the name of the machine that the driver believes to be on")
    words = parser.parse_args()
    sys.path.insert(0, str(TESTS))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])

    if words.host:
        socket.gethostname = lambda: words.host
    from raypo.search import driver, searches

    study = study_of(words)
    if study.resources.gpus_per_worker:
        without_cuda()
    begun = (Path(words.storage.removeprefix("file://")) / words.name / "search.json").exists()
    search = searches.opened(words.storage, words.name) if begun else searches.create(study)
    bench = driver.BENCH if words.real else "stub_bench:StubBench"
    driver.run(search, study, Silent(), address=words.address, bench=bench)


if __name__ == "__main__":
    main()
