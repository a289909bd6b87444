"""Lineage: data and base model go into the search-level run by their hashes, the best models come out of it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import write_search
from test_overview import rows_of
from test_wandb_online import run_of
from wandb_files import OfflineRun, offline_runs
from wandb_server import WandbServer

from raypo.search.results import SearchResults
from raypo.tracking.compare import winner
from raypo.tracking.wandb import Tracker, replay

ORIGINS = {
    "base-model": {"name": "quickstart", "content": "a" * 32, "start": "c" * 32},
    "dataset": {"name": "/home/jane/data/pairs v2.jsonl", "content": "b" * 32, "split": "train", "records": 400},
}


def with_models(root: Path, name: str = "rhymes", trials: int = 1) -> SearchResults:
    """A search that knows its origins, and has the models of two of its four winners."""
    results = replace(write_search(root, name, trials), origins=ORIGINS)
    for method in ("dpo", "ipo"):
        best = winner(results.trials, method)
        assert best is not None
        (best.folder / "model").mkdir()
        (best.folder / "model" / "config.json").write_text(json.dumps({"method": method}))
    return results


def search_run(results: SearchResults) -> OfflineRun:
    (run,) = [run for name, run in offline_runs(results.folder).items() if name.endswith("-search")]
    return run


def lineage(server: WandbServer) -> dict[str, str | None]:
    """Committed versions of data and models with the run that each came out of; None for what only goes in."""
    made = {name: known for name, known in server.artifacts.items() if known["artifactTypeName"] != "run_table"}
    assert all(known["committed"] for known in made.values())
    return {name: known.get("runName") for name, known in made.items()}


def test_data_and_base_model_go_in_and_the_best_models_come_out(server: WandbServer, tmp_path: Path) -> None:
    results = with_models(tmp_path)
    tracker = Tracker(results)
    for trial in results.trials:
        tracker.finish_trial(trial)
    assert tracker.finish(results).errors == 0
    run = run_of(server, "search").name
    assert {name.removeprefix("artifact-").rpartition(".")[0]: by for name, by in lineage(server).items()} == {
        "base-model-quickstart": None,
        "dataset-pairs-v2.jsonl": None,
        "rhymes-dpo": run,
        "rhymes-ipo": run,
    }
    used = {name for name, known in server.artifacts.items() if known["artifactTypeName"] in ORIGINS}
    assert {artifact for user, artifact in server.used if user == run} == used
    sent = {name.split("/", 1)[1]: body for name, body in server.blobs.items() if name.startswith("artifact-dataset")}
    assert json.loads(sent["content.json"]) == {"content": "b" * 32}
    assert "jane" not in repr(server.artifacts)


def test_a_model_names_its_trial_its_figures_and_what_it_was_made_from(server: WandbServer, tmp_path: Path) -> None:
    results = with_models(tmp_path)
    results.study["data"] |= {f"setting_{number}": number for number in range(120)}
    assert replay(results).errors == 0
    (name,) = [name for name in server.artifacts if name.startswith("artifact-rhymes-dpo.")]
    metadata = json.loads(server.artifacts[name]["metadata"])
    known = metadata["configuration"]
    assert (known["model.path"], known["data.source"], known["trial"]) == ("quickstart", "quickstart", 0)
    assert known["data.setting_119"] == 119
    assert (metadata["origins.base-model"], metadata["origins.dataset"]) == ("a" * 32, "b" * 32)
    best = winner(results.trials, "dpo")
    assert best is not None
    assert metadata["win_rate"] == best.estimate.win_rate
    assert server.blobs[f"{name}/config.json"] == b'{"method": "dpo"}'
    table = rows_of(next(body for name, body in server.blobs.items() if name.endswith("best.table.json")))
    assert table[0]["run"] == f"{server.url}/someone/raypo/runs/{run_of(server, 'dpo-0000').name}"


def test_searches_on_the_same_data_meet_and_nothing_is_sent_twice(server: WandbServer, tmp_path: Path) -> None:
    first = with_models(tmp_path)
    replay(first)
    before = lineage(server)
    bodies = dict(server.blobs)
    replay(first, whole=True)
    assert lineage(server) == before
    assert {name for name in server.blobs if "run-rhymes" not in name} == {n for n in bodies if "run-rhymes" not in n}
    replay(with_models(tmp_path, "again"))
    grown = {name.removeprefix("artifact-").rpartition(".")[0] for name in lineage(server).keys() - before.keys()}
    assert grown == {"again-dpo", "again-ipo"}
    users = {user for user, artifact in server.used if artifact.startswith("artifact-dataset-")}
    assert len(users) == 2


def test_other_data_under_the_same_name_is_another_version(server: WandbServer, tmp_path: Path) -> None:
    results = with_models(tmp_path)
    replay(results)
    replay(replace(results, origins={**ORIGINS, "dataset": {**ORIGINS["dataset"], "content": "d" * 32}}))
    assert len([name for name in server.artifacts if name.startswith("artifact-dataset-pairs-v2.jsonl.")]) == 2


def test_offline_files_hold_the_same_lineage_and_copy_no_model(tmp_path: Path) -> None:
    results = with_models(tmp_path)
    first = Tracker(results, "offline")
    first.finish(replace(results, trials=results.trials[:1]))
    replay(results, "offline")
    found = {artifact.name: artifact for artifact in search_run(results).artifacts if artifact.type != "run_table"}
    assert {name: (a.type, a.use_after_commit) for name, a in found.items()} == {
        "base-model-quickstart": ("base-model", True),
        "dataset-pairs-v2.jsonl": ("dataset", True),
        "rhymes-dpo": ("model", False),
        "rhymes-ipo": ("model", False),
    }
    (file,) = found["rhymes-dpo"].manifest.contents
    best = winner(results.trials, "dpo")
    assert best is not None
    assert file.local_path == str(best.folder / "model" / "config.json")
    for name in ORIGINS:
        (artifact,) = [artifact for artifact in found.values() if artifact.type == name]
        (file,) = artifact.manifest.contents
        assert json.loads(Path(file.local_path).read_text()) == {"content": ORIGINS[name]["content"]}


@pytest.mark.parametrize("prepared", [True, False])
def test_models_stay_here_where_the_study_says_so(tmp_path: Path, prepared: bool) -> None:
    results = replace(with_models(tmp_path), origins=ORIGINS if prepared else {})
    results.study["tracking"]["models"] = False
    assert replay(results, "offline").errors == 0
    kinds = {artifact.type for artifact in search_run(results).artifacts} - {"run_table"}
    assert kinds == (set(ORIGINS) if prepared else set())
