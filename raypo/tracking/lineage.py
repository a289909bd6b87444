"""Lineage in W&B: data and base model go into the search-level run, the best model of each method comes out of it.

Of data and base model only the content hash is sent, as one small file. A version follows from its files alone, so runs
and searches on the same data meet at the same version, however often they are sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from raypo.search.results import SearchResults, TrialResult
from raypo.tracking.compare import winner
from raypo.tracking.runs import configuration, public, summary
from raypo.tracking.tables import configuration as in_words


def models(results: SearchResults) -> dict[str, Path]:
    """Folders of the winners' models by method; none where the study keeps models away from W&B."""
    folders = {trial.method: trial.folder / "model" for trial in sent(results)}
    return {method: folder for method, folder in folders.items() if folder.is_dir()}


def sent(results: SearchResults) -> list[TrialResult]:
    """The trials whose models are sent, should they be there."""
    if not results.study.get("tracking", {}).get("models", True):
        return []
    best = [winner(results.trials, method) for method in results.methods]
    return [trial for trial in best if trial is not None]


def send_lineage(wandb: ModuleType, run: Any, results: SearchResults) -> None:
    """Have a run use the data and the base model, and log each winner's model."""
    for kind, known in results.origins.items():
        # `use_artifact` refuses offline, though the record that it writes is the same one.
        run._log_artifact(_origin(wandb, kind, known), aliases=[], is_user_created=True, use_after_commit=True)
    for method, folder in models(results).items():
        best = winner(results.trials, method)
        assert best is not None
        run.log_artifact(_model(wandb, results, best, folder))


def _origin(wandb: ModuleType, kind: str, known: Mapping[str, Any]) -> Any:
    described = public(known)
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", str(described["name"])).strip("-.")
    artifact = wandb.Artifact(f"{kind}-{name}"[:128], type=kind, metadata=described)
    with artifact.new_file("content.json") as file:
        json.dump({"content": known["content"]}, file)
    return artifact


def _model(wandb: ModuleType, results: SearchResults, trial: TrialResult, folder: Path) -> Any:
    """Make the artifact of a method's best model; its metadata names the trial, and what it was made from.

    The configuration is one entry, however large the study: W&B refuses more than 100.
    """
    hashes = {kind: known["content"] for kind, known in results.origins.items()}
    artifact = wandb.Artifact(
        name=f"{results.name}-{trial.method}",
        type="model",
        description=f"Best {trial.method} configuration of {results.name}: {in_words(trial.hyperparameters)}",
        metadata={**summary(trial), **public({"origins": hashes}), "configuration": configuration(results, trial)},
    )
    # Nobody changes a finished trial's model, so it is sent from where it lies and copied nowhere.
    artifact.add_dir(str(folder), policy="immutable", skip_cache=True)
    return artifact
