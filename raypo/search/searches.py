"""Searches on disk: making one, opening one, and what its folder says of it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raypo import yaml
from raypo.errors import StorageError
from raypo.search.commands import Command, Commands
from raypo.search.drawing import rules_of
from raypo.search.folders import read_json, search_folder, write_json
from raypo.search.grid import grid_cells
from raypo.search.ledger import Ledger
from raypo.study import Study, build

_PACKAGES = ("raypo", "ray", "torch", "transformers", "deepspeed", "optuna", "wandb", "datasets", "peft")


@dataclass(frozen=True)
class SearchFolder:
    """A search on disk."""

    name: str
    path: Path

    @property
    def ledger(self) -> Ledger:
        settings = read_json(self.path / "search.json") or {}
        where = settings.get("ledger") or self.path / "ledger.journal"
        return Ledger(where, self.name, settings.get("goals", ()))

    @property
    def begun(self) -> bool:
        """Whether the ledger holds anything of this search."""
        if self.settings["ledger"]:
            return bool(self.ledger.labels())
        return (self.path / "ledger.journal").exists()

    @property
    def settings(self) -> dict[str, Any]:
        found = read_json(self.path / "search.json")
        if found is None:
            raise StorageError(f"{self.name}: no search of that name in {self.path.parent}{_others(self.path)}")
        assert isinstance(found, dict)
        return found

    def study(self) -> Study:
        """The study as it was resolved when the search began."""
        settings = self.settings
        content = yaml.load_file(self.path / "study.yaml")
        return build(content, str(self.path / "study.yaml"), allow_code=settings["allow_code"])

    def revise(self, study: Study, revision: int) -> dict[str, int | None]:
        """Keep a study that a method was added to; returns how many trials each method gets."""
        write_json(self.path / "revisions" / f"{revision}.json", study.written())
        settings = self.settings
        wanted = {**targets(study), **settings["targets"]}
        write_json(self.path / "search.json", {**settings, "targets": wanted})
        _write(self.path / "study.yaml", yaml.dump(study.written()))
        return wanted


def create(study: Study, name: str | None = None, **also: Any) -> SearchFolder:
    """Make the folder of a new search; `also` is kept with its settings.

    Raises:
        StorageError: the name is taken.
    """
    search = SearchFolder(name or study.name, search_folder(study.storage, name or study.name))
    if (search.path / "search.json").exists():
        raise StorageError(
            f"{search.name}: there is a search of that name in {search.path.parent}; "
            f"go on with it: raypo resume {search.name}; add trials to it: raypo extend {search.name} --trials N; "
            f"or start anew under another name: --name"
        )
    if study.ledger and Ledger(study.ledger, search.name).labels():
        raise StorageError(
            f"{search.name}: the ledger {study.ledger} holds a search of that name whose folder is not in "
            f"{search.path.parent}; name its --storage to go on with it, or start anew under another name: --name"
        )
    search.path.mkdir(parents=True, exist_ok=True)
    _write(search.path / "study.yaml", yaml.dump(study.written()))
    write_json(
        search.path / "search.json",
        {
            "name": search.name,
            "allow_code": study.allow_code,
            "targets": targets(study),
            "versions": versions(),
            "goals": study.objective.pareto or (),
            "ledger": study.ledger,
            **also,
        },
    )
    return search


def discard_if_empty(search: SearchFolder) -> None:
    """Remove a search that was refused before anything ran, so that its name is free again."""
    if not search.begun:
        shutil.rmtree(search.path, ignore_errors=True)


def opened(storage: str, name: str) -> SearchFolder:
    """An existing search.

    Raises:
        StorageError: there is none of that name.
    """
    search = SearchFolder(name, search_folder(storage, name))
    _ = search.settings
    return search


def extend(search: SearchFolder, trials: int = 0, hours: float = 0.0) -> Command:
    """Ask for more trials of every method, or for more hours of the budget."""
    return Commands(search.ledger).send("extend", trials=trials, hours=hours)


def targets(study: Study) -> dict[str, int | None]:
    """How many trials each method gets, None for as many as the budget holds; a grid has as many as it has cells."""
    if study.search.sampler != "grid":
        return dict.fromkeys(study.methods, study.search.trials)
    spaces = {label: {n: s.distribution() for n, s in study.space(label).items()} for label in study.methods}
    return {label: len(grid_cells(space, rules_of(study, label), 0)) for label, space in spaces.items()}


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


def _others(path: Path) -> str:
    names = sorted(p.parent.name for p in path.parent.glob("*/search.json"))
    return f"; there are: {', '.join(names)}" if names else "; raypo search FILE starts one"


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
