"""The best model of a method, handed out; and the models of trials that lost, removed."""

from __future__ import annotations

import shutil
from pathlib import Path

from raypo.errors import StorageError
from raypo.search.folders import trial_folder
from raypo.search.ledger import Ledger, Row

KEPT = 3
"""Models kept for each method beside those that the confirmation wants."""


def copy_model(search: Path, trial: str, to: Path) -> Path:
    """Copy a trial's model, a Hugging Face folder, to a new place.

    Raises:
        StorageError: the trial has no model any more, or the place is taken.
    """
    model = trial_folder(search, trial) / "model"
    if not (model / "config.json").is_file():
        raise StorageError(f"{trial}: its model is not kept; the {KEPT} best of each method are")
    if to.exists() and any(to.iterdir()):
        raise StorageError(f"--to {to}: is not empty; give a new folder")
    shutil.copytree(model, to, dirs_exist_ok=True)
    return to


def drop_losers(ledger: Ledger, search: Path, row: Row, keep: int) -> None:
    """Remove the models of a method's finished trials that are not among its best `keep`."""
    finished = [r for r in ledger.rows(row.label) if r.state == "finished" and r.evaluations]
    finished.sort(key=lambda r: -float(r.evaluations[-1]["objective"]))
    for loser in finished[keep:]:
        shutil.rmtree(trial_folder(search, loser.name) / "model", ignore_errors=True)
