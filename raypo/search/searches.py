"""Searches on disk: making one, opening one, and what its folder says of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raypo import yaml
from raypo.errors import StorageError
from raypo.search.commands import Command, Commands
from raypo.search.folders import (
    CURSOR,
    LIVE,
    MODEL,
    READ,
    contents_file,
    location_of,
    origins_file,
    read_json,
    revision_file,
    trial_folder,
    usage_file,
    write_json,
)
from raypo.search.lease import LEASE, holder, holder_here, lease
from raypo.search.ledger import Ledger
from raypo.search.remote import WorkingCopy
from raypo.search.targets import targets
from raypo.search.versions import versions
from raypo.study import Study, build


@dataclass(frozen=True)
class SearchFolder:
    """A search on disk."""

    name: str
    copy: WorkingCopy

    @property
    def path(self) -> Path:
        return self.copy.path

    @property
    def journal(self) -> Path:
        """Where the ledger is while no database holds it."""
        return self.path / "ledger.journal"

    @property
    def ledger(self) -> Ledger:
        settings = read_json(self.path / "search.json") or {}
        where = settings.get("ledger") or self.journal
        return Ledger(where, self.name, settings.get("goals", ()))

    @property
    def begun(self) -> bool:
        """Whether a trial of this search was ever drawn."""
        there = bool(self.settings["ledger"]) or self.journal.exists()  # opening a journal would create it
        return there and bool(self.ledger.rows())

    @property
    def settings(self) -> dict[str, Any]:
        found = read_json(self.path / "search.json")
        if found is None:
            raise StorageError(f"{self.name}: no search of that name in {self.copy.storage}{_others(self.copy)}")
        assert isinstance(found, dict)
        return found

    def study(self) -> Study:
        """The study as it was resolved when the search began."""
        settings = self.settings
        content = yaml.load_file(self.path / "study.yaml")
        return build(content, str(self.path / "study.yaml"), allow_code=settings["allow_code"])

    def revise(self, study: Study, revision: int) -> dict[str, int | None]:
        """Keep a study that a method was added to; returns how many trials each method gets."""
        revised = revision_file(self.path, revision)
        write_json(revised, study.written())
        settings = self.settings
        wanted = {**targets(study), **settings["targets"]}
        write_json(self.path / "search.json", {**settings, "targets": wanted})
        _write(self.path / "study.yaml", yaml.dump(study.written()))
        self.copy.push(revised, *self._files)
        return wanted

    def pull(self) -> None:
        """Bring the mirror's settings and journal here."""
        sources = (origins_file(self.path), contents_file(self.path))
        self.copy.pull(*self._files, *sources, self.path / LIVE, self.path / CURSOR, usage_file(self.path))
        self.copy.pull_journal(self.journal)

    def push_journal(self) -> None:
        """Have the mirror know what the ledger knows."""
        self.copy.push_journal(self.journal)

    def pull_trials(self, *names: str) -> None:
        """Bring what slots wrote of some trials, or of all, but for models and checkpoints."""
        trials = self.path / "trials"
        found = (
            [f"{name}/{file}" for name in names for file in READ]
            if names
            else [file for file in self.copy.files(trials) if file.count("/") == 1 and file.split("/")[1] in READ]
        )
        self.copy.pull(*(trials / file for file in found))

    def pull_models(self, *names: str) -> None:
        """Bring the models of some trials."""
        for name in names:
            self.copy.pull_folder(trial_folder(self.path, name) / "model", MODEL)

    @property
    def _files(self) -> tuple[Path, Path]:
        """The settings, which say that there is a search, come last."""
        return self.path / "study.yaml", self.path / "search.json"


def create(study: Study, name: str | None = None, **also: Any) -> SearchFolder:
    """Make the folder of a new search; `also` is kept with its settings.

    Raises:
        StorageError: the name is taken.
    """
    search = _at(study.storage, name or study.name)
    _check_free(search, study)
    with lease(search.copy, search.name):
        search.copy.pull(search.path / "search.json")  # not before, or what its driver writes meanwhile would go
        _check_free(search, study)  # of two that make it at once, one does
        if search.copy.mirrored:
            _clear(search.path)  # of a search that is not there any more
        _write(search.path / "study.yaml", yaml.dump(study.written()))
        settings = {
            "name": search.name,
            "allow_code": study.allow_code,
            "targets": targets(study),
            "versions": versions(),
            "goals": study.objective.pareto or (),
            "ledger": study.ledger,
        }
        write_json(search.path / "search.json", {**settings, **also})
        search.copy.push(*search._files)
    return search


def _check_free(search: SearchFolder, study: Study) -> None:
    if (search.path / "search.json").exists():
        raise StorageError(
            f"{search.name}: there is a search of that name in {search.copy.storage}; "
            f"go on with it: raypo resume {search.name}; add trials to it: raypo extend {search.name} --trials N; "
            f"or start anew under another name: --name"
        )
    if study.ledger and Ledger(study.ledger, search.name).labels():
        raise StorageError(
            f"{search.name}: the ledger {study.ledger} holds a search of that name whose folder is not in "
            f"{search.copy.storage}; name its --storage to go on with it, or start anew under another name: --name"
        )


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != LEASE:
            path.unlink(missing_ok=True)


def discard_if_empty(search: SearchFolder, taken: Collection[str] = ()) -> None:
    """Remove a search that failed before a trial was drawn, so that its name is free again for the mended study.

    Trials that a fork has `taken` over were drawn in another search, which keeps them; once the fork is prepared, it
    may have confirmed some.
    """
    prepared = origins_file(search.path).exists()
    own = search.begun and any(prepared or row.name not in taken for row in search.ledger.rows())
    if own or holder(search.copy) is not None:
        return
    if search.settings["ledger"]:
        _forget(search.ledger)
    search.copy.drop(search.path)


def _forget(ledger: Ledger) -> None:
    """Remove what a database has of a search, its commands too."""
    for study in ledger.storage.get_all_studies():
        if study.study_name.startswith(f"{ledger.search}/"):
            ledger.storage.delete_study(study._study_id)


def opened(storage: str, name: str) -> SearchFolder:
    """An existing search.

    Raises:
        StorageError: there is none of that name, or its folder was called otherwise when it was made.
    """
    search = _at(storage, name)
    own = search.settings["name"]
    if own != name:
        raise StorageError(
            f"{name}: is the folder of the search {own}, whose ledger knows it by that name alone; call the folder "
            f"{own} again; raypo fork {own} {name} makes a search of another name of it"
        )
    return search


def _at(storage: str, name: str) -> SearchFolder:
    """A search with what the mirror has of it, unless a driver of this machine is ahead of that."""
    search = SearchFolder(name, WorkingCopy(location_of(storage, name)))
    if holder_here(search.path) is None:
        search.pull()
    return search


def extend(search: SearchFolder, trials: int = 0, hours: float = 0.0) -> Command:
    """Ask for more trials of every method, or for more hours of the budget."""
    return Commands(search.ledger).send("extend", trials=trials, hours=hours)


def _others(copy: WorkingCopy) -> str:
    names = copy.neighbours()
    return f"; there are: {', '.join(names)}" if names else "; raypo search FILE starts one"


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
