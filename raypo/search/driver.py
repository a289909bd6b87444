"""Running a search from its study to its comparison, and going on with one that was interrupted."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ray

from raypo import yaml
from raypo.errors import ClusterError, StorageError
from raypo.search import tune
from raypo.search.cluster import NAMESPACE, Cluster, check_resources, joined, slots_open
from raypo.search.conductor import LedgerConductor, rules_of
from raypo.search.confirming import candidates, confirm
from raypo.search.exporting import KEPT, drop_losers
from raypo.search.folders import read_json, search_folder, write_json
from raypo.search.grid import grid_cells
from raypo.search.jobs import Job
from raypo.search.journal import mend
from raypo.search.lease import lease
from raypo.search.ledger import Ledger, Row
from raypo.study import Study, build

BENCH = "raypo.search.bench:TrialBench"
_PACKAGES = ("raypo", "ray", "torch", "transformers", "deepspeed", "optuna", "wandb", "datasets", "peft")


class Watcher(Protocol):
    """Who follows a search: the terminal, W&B."""

    def started(self, search: str, folder: Path, study: Study) -> None: ...

    def stage(self, text: str) -> None: ...

    def running(self, cluster: Cluster, conductor: LedgerConductor) -> None: ...

    def event(self, kind: str, row: Row) -> None: ...

    def ended(self, search: str, folder: Path) -> None: ...


@dataclass(frozen=True)
class SearchFolder:
    """A search on disk."""

    name: str
    path: Path

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.path / "ledger.journal", self.name)

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


def create(study: Study, name: str | None = None) -> SearchFolder:
    """Make the folder of a new search.

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
    search.path.mkdir(parents=True, exist_ok=True)
    (search.path / "study.yaml").write_text(yaml.dump(study.written()), encoding="utf-8")
    write_json(
        search.path / "search.json",
        {"name": search.name, "allow_code": study.allow_code, "targets": targets(study), "versions": versions()},
    )
    return search


def opened(storage: str, name: str) -> SearchFolder:
    """An existing search.

    Raises:
        StorageError: there is none of that name.
    """
    search = SearchFolder(name, search_folder(storage, name))
    _ = search.settings
    return search


def extend(search: SearchFolder, trials: int) -> None:
    """Ask for more trials of every method."""
    settings = search.settings
    raised = {label: count + trials for label, count in settings["targets"].items()}
    write_json(search.path / "search.json", {**settings, "targets": raised})


def targets(study: Study) -> dict[str, int]:
    """How many trials each method gets; a grid has as many as it has cells."""
    if study.search.sampler != "grid":
        return dict.fromkeys(study.methods, study.search.trials)
    spaces = {label: {n: s.distribution() for n, s in study.space(label).items()} for label in study.methods}
    return {label: len(grid_cells(space, rules_of(study, label), 0)) for label, space in spaces.items()}


def run(
    search: SearchFolder,
    study: Study,
    watcher: Watcher,
    *,
    address: str | None = None,
    bench: str = BENCH,
    log_to_driver: bool = False,
) -> None:
    """Run a search, new or interrupted, until every method has its trials.

    Raises:
        StorageError: another driver runs it.
        ClusterError: the cluster cannot hold the slots, or the preparation failed.
    """
    with lease(search.path, search.name), joined(study, address, log_to_driver):
        mended = mend(search.path / "ledger.journal")
        if mended:
            watcher.stage(mended)
        check_resources(study)
        settings = {
            "study": study.written(),
            "search": search.name,
            "folder": str(search.path),
            "allow_code": study.allow_code,
        }
        ledger = search.ledger
        with slots_open(study, search.name, search.path, bench, settings) as cluster:
            watcher.started(search.name, search.path, study)
            _prepare(cluster, watcher)
            concurrent = study.resources.slots * 2
            conductor = LedgerConductor(
                study,
                ledger,
                pool=cluster.pool_name,
                namespace=NAMESPACE,
                concurrent=concurrent,
                targets=search.settings["targets"],
            )
            conductor.listen(watcher.event)
            keep = max(KEPT, study.confirm.top)
            conductor.listen(lambda kind, row: drop_losers(ledger, search.path, row, keep) if kind == "ended" else None)
            watcher.running(cluster, conductor)
            tune.run(conductor, concurrent, str(search.path / "ray"))
            cluster.check()
            work = candidates(study, ledger, conductor.job)
            if work:
                seeds = study.confirm.seeds
                watcher.stage(f"confirming {len(work)} configurations with {seeds} seeds each on unseen prompts")
                confirm(ledger, search.path, cluster.pool, work, watcher.stage)
        shutil.rmtree(search.path / "ray", ignore_errors=True)  # Ray's own notes; the ledger is the record
        watcher.ended(search.name, search.path)


def _prepare(cluster: Cluster, watcher: Watcher) -> None:
    """Have one slot make what all trials share, saying how far it is."""
    job = Job("prepare", "prepare", {}, 0, 1.0, kind="prepare")
    waiting = cluster.pool.submit.remote(job)
    told = ""
    while True:
        ready, _ = ray.wait([waiting], timeout=0.5)
        for slot in cluster.view().values():
            pulse = slot["pulse"]
            if pulse is not None and pulse.stage != told:
                told = pulse.stage
                watcher.stage(told)
        cluster.check()
        if ready:
            break
    outcome = ray.get(waiting)
    if outcome.state not in ("finished",):
        raise ClusterError(f"preparing failed: {outcome.reason}")


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
