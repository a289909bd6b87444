"""How a winner is run again: a command line that has its values in the place of everything that was searched."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from raypo.search.results import SearchResults, TrialResult

TRANSFORM = "data."
"""What stands before the name of a searched transform of the data, which belongs to no method."""


def command(results: SearchResults, trial: TrialResult) -> str:
    """Return the command line that runs one trial's configuration again."""
    overrides = [
        f"--set {shlex.quote(f'{key}={json.dumps(value)}')}" for key, value in settings(results, trial).items()
    ]
    study = shlex.quote(str(results.folder / "study.yaml"))
    allowed = ["--allow-code"] if results.allow_code else []
    return " ".join(["raypo search", study, f"--name {results.name}-{trial.name}", *allowed, *overrides])


def settings(results: SearchResults, trial: TrialResult) -> dict[str, Any]:
    """Return the keys of the study that leave one trial's configuration of it, and nothing to search."""
    study = results.study
    found: dict[str, Any] = {"methods": {trial.method: _method(study, trial)}, "search.trials": 1}
    transforms = study.get("data", {}).get("transforms") or ()
    if any(name.startswith(TRANSFORM) for name in trial.hyperparameters):
        found["data.transforms"] = [_transform(transform, trial) for transform in transforms]
    # They chose among points and may name what is gone: other methods, or axes of the data.
    if study.get("search", {}).get("constraints"):
        found["search.constraints"] = []
    return found


def _method(study: Mapping[str, Any], trial: TrialResult) -> dict[str, Any]:
    """A method's entry without axes and what concerns them; one that the trial's conditions left out is not set."""
    entry = study.get("methods", {}).get(trial.method) or {}
    # Axes and conditions are mappings, which no value of a hyperparameter is.
    fixed = {name: v for name, v in entry.items() if name != "priors" and not isinstance(v, Mapping)}
    return {**fixed, **{name: v for name, v in trial.hyperparameters.items() if not name.startswith(TRANSFORM)}}


def _transform(transform: Mapping[str, Any], trial: TrialResult) -> dict[str, Any]:
    return {name: trial.hyperparameters.get(f"{TRANSFORM}{name}", value) for name, value in transform.items()}
