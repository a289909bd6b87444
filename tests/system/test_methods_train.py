"""Every method trains on the quickstart task through slots, two ranks and DeepSpeed, and shows what it is for."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from stubbed import Silent

from raypo.artifacts import Store
from raypo.methods import METHODS
from raypo.search import driver, searches
from raypo.search.reading import read_results
from raypo.search.results import TrialResult
from raypo.study import build

STUDY: dict[str, Any] = {
    "model": {"path": "quickstart", "sft": {"count": 4800, "epochs": 2, "lr": 4e-3, "batch_size": 64}},
    "data": {"source": "quickstart", "count": 640, "max_length": 64, "heldout": 0},
    "training": {"lr": 3e-4, "epochs": 2, "batch_size": 32, "micro_batch_size": 16, "hidden_budget_gib": 0.1},
    "objective": {
        "judge": {"kind": "rule", "function": "quickstart"},
        "prompts": {"split": "eval", "count": 240},
        "sampling": {"temperature": 1.0, "max_new_tokens": 25},
        "at": [1.0],
    },
    "search": {"trials": 1, "sampler": "random"},
    "resources": {"workers": 2, "zero_stage": 2},
    "tracking": {"wandb": "disabled"},
}
LISTS = {"source": "quickstart", "format": "ranked", "count": 320, "max_length": 64, "heldout": 0}
OWN: dict[str, dict[str, Any]] = {
    "brain": {"gamma": 0.2},
    "cdpo": {"epsilon": 0.13},
    "epsilon_dpo": {"beta": 0.1, "epsilon": 0.02},
    "ipo": {"tau": 0.05, "aggregate": "sum"},
    "kto": {"beta": 0.3},
    "kto_tanh": {"beta": 0.3},
    "odpo": {"scale": "identity"},
    "rank_dpo": {"beta": 0.3},
    "robust_dpo": {"epsilon": 0.13},
    "rpo": {"beta": 1.0},
    "rpo_unpaired": {"beta": 1.0, "lr": 1.5e-4},
    "slic": {"lambda_": 1.0},
    "tr_dpo": {"tau": 8, "alpha": 0.5},
}
"""Hyperparameters that differ from the defaults, which are for large models and long answers."""
EVERYDAY = ("dpo", "epsilon_dpo", "kto", "offline_ppo", "rpo", "sft", "simpo", "tr_dpo")
"""Those whose needs of the trainer cover all others'; lists are another search, in miniature in test_single.py."""
LIKELIHOOD = ("asft", "cpo", "orpo", "rrhf", "slic")


@dataclass(frozen=True)
class Trained:
    """A trial at its end, and the metrics of its first and its last epoch: means over the same examples."""

    trial: TrialResult
    first: dict[str, float]
    last: dict[str, float]


@pytest.fixture(scope="module")
def trained(
    request: pytest.FixtureRequest,
    local_ray: None,  # noqa: ARG001 - a search needs a cluster
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Trained]:
    """The methods that the chosen tests ask for, each trained once, from one starting model."""
    storage = tmp_path_factory.mktemp("methods")
    asked = {item.callspec.params["method"] for item in request.session.items if item.module is request.module}
    lists = {name for name in asked if METHODS[name].candidates > 2}
    found = _searched(storage, "pairs", asked - lists, STUDY["data"])
    return found | _searched(storage, "lists", lists, LISTS)


def _searched(storage: Path, name: str, methods: set[str], data: dict[str, Any]) -> dict[str, Trained]:
    if not methods:
        return {}
    wanted = {method: OWN.get(method, {}) for method in sorted(methods)}
    study = build({**STUDY, "name": name, "data": data, "methods": wanted, "storage": str(storage)}, name)
    search = searches.create(study)
    driver.run(search, study, Silent())
    return {trial.method: _read(trial) for trial in read_results(search, study).trials}


def _read(trial: TrialResult) -> Trained:
    rows = [json.loads(line) for line in (trial.folder / "metrics.jsonl").read_text().splitlines()]
    half = len(rows) // 2
    first, last = ({n: sum(row[n] for row in part) / half for n in part[0]} for part in (rows[:half], rows[half:]))
    return Trained(trial, first, last)


METHOD = pytest.mark.parametrize(
    "method", [name if name in EVERYDAY else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)


@METHOD
def test_reward_accuracy_and_win_rate_rise(trained: dict[str, Trained], method: str) -> None:
    """On the examples of an epoch, over which everything but the policy is equal; answers beat the start's."""
    found = trained[method]
    assert found.trial.state == "finished"
    if method == "sft":  # imitates and has no reward: the chosen answers become likelier
        assert "rewards/accuracies" not in found.last
        assert found.last["nll"] < found.first["nll"] - 0.05
    else:
        assert found.last["rewards/accuracies"] > found.first["rewards/accuracies"] + 0.02
        assert found.last["rewards/margins"] > found.first["rewards/margins"]
    estimate = found.trial.estimate
    assert estimate is not None
    assert estimate.win_rate > 0.5
    assert estimate.ci_low > 0.5, "by more than chance"


@METHOD
def test_every_metric_has_its_common_name(trained: dict[str, Trained], method: str) -> None:
    description, found = METHODS[method], trained[method].last
    sides = ("chosen",) if description.data == "completions" else ("chosen", "rejected")
    names = {"loss", "lr", "grad_norm", "nll", "entropy"}
    names |= {f"{name}/{side}" for name in ("logps", "logps_avg", "lengths", "logits") for side in sides}
    if len(sides) == 2:
        names |= {f"rewards/{name}" for name in ("chosen", "rejected", "margins", "accuracies")}
    if "reference" in description.needs:
        names |= {f"{name}/{side}" for name in ("ref_logps", "logratio") for side in sides}
        names |= {"dpo/accuracies", "dpo/margins", "kl/token_k1"}
    if "reference" in description.needs and description.data == "pairs":
        names |= {"dpo/negative_margins", "gradient_weight"}
    assert names <= found.keys()
    assert all(math.isfinite(value) for value in found.values())


@pytest.mark.parametrize("method", [pytest.param(name, marks=pytest.mark.slow) for name in LIKELIHOOD])
def test_a_likelihood_term_keeps_chosen_answers_likely(trained: dict[str, Trained], method: str) -> None:
    """Where DPO's become less likely, if less so than the rejected ones."""
    assert trained[method].last["nll"] < trained[method].first["nll"]


@pytest.mark.parametrize("method", ["dpo"])
def test_dpo_buys_its_margin_with_the_likelihood_of_chosen_answers(trained: dict[str, Trained], method: str) -> None:
    found = trained[method]
    assert found.last["nll"] > found.first["nll"]
    assert found.last["logratio/rejected"] < found.last["logratio/chosen"] < 0


@pytest.mark.parametrize("method", ["tr_dpo"])
def test_a_reference_that_follows_leaves_little_of_the_margin(trained: dict[str, Trained], method: str) -> None:
    """TR-DPO's own reward is measured against a reference that has come after the policy."""
    found = trained[method].last
    assert found["tr_dpo/syncs"] >= 2
    assert 0 < found["rewards/margins"] < 0.7 * 0.1 * found["dpo/margins"]


@pytest.mark.parametrize("method", ["rpo", "epsilon_dpo", pytest.param("rank_dpo", marks=pytest.mark.slow)])
def test_what_trials_share_is_made_once(trained: dict[str, Trained], method: str) -> None:
    """One starting model for all searches; prompt embeddings and hidden states for the methods that ask for them."""
    store = Store(trained[method].trial.folder.parents[2] / "artifacts")
    kinds = Counter(artifact.kind for artifact in store.list())
    assert kinds["base-model"] == kinds["sft-model"] == kinds["completions"] == 1
    assert kinds["embeddings"] == len({"rpo", "rpo_unpaired"} & trained.keys())
    assert kinds["hidden"] == len({"epsilon_dpo"} & trained.keys())
