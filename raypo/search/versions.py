"""The packages, and the commit, that a search runs under."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path

_PACKAGES = ("raypo", "ray", "torch", "transformers", "deepspeed", "optuna", "wandb", "datasets", "peft")


def versions() -> dict[str, str]:
    """What this search ran under."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    ).stdout.strip()
    return {**found, **({"commit": commit} if commit else {})}
