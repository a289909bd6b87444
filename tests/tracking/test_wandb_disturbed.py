"""After any mix of kills, outages and resumes the runs in W&B are those of a search that nothing disturbed."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic import write_search
from test_lineage import ORIGINS
from test_slot_usage import measurement
from test_wandb_offline import until
from test_wandb_online import measured, wait_for
from wandb_server import ServerRun, WandbServer

from raypo.search.folders import write_json
from raypo.search.results import SearchResults
from raypo.tracking.cursor import Cursor
from raypo.tracking.wandb import Tracker, replay

HERE = Path(__file__).parent
FRACTIONS = (1 / 3, 2 / 3, 1.0)


def whole_search(root: Path) -> SearchResults:
    """Two trials with the model of one, what the slot used, and where the models come from."""
    results = write_search(root, trials=1)
    for trial in results.trials[:1]:
        write_json(trial.folder / "model" / "config.json", {"hidden_size": 4})
    rows = [measurement(1e9 + 10 * place, "slot-0", 100.0 + place, 2.0) for place in range(19)]
    for row in rows:
        with (results.folder / "slots.jsonl").open("a") as file:
            file.write(f"{row}\n".replace("'", '"'))
    return replace(results, trials=results.trials[:2], origins=ORIGINS)


def at(search: SearchResults, fraction: float) -> SearchResults:
    """A search as it was known when all its trials were at a fraction of their schedules."""
    if fraction == 1.0:
        return search
    return replace(search, trials=tuple(until(trial, fraction) for trial in search.trials))


def in_wandb(server: WandbServer, search: SearchResults) -> dict[str, Any]:
    """Everything that the server has of a search, without clocks and the search's token."""
    token = f"-{Cursor.open(search.folder).token}-"
    runs = {name.split(token)[1]: run for name, run in server.runs.items() if token in name}
    artifacts = {name: known for name, known in server.artifacts.items() if "run-" not in name}
    found = {name: _told(run, name) for name, run in runs.items()}
    used = {(user.split(token)[1], artifact) for user, artifact in server.used if token in user}
    return {"runs": found, "models": sorted(artifacts), "used": used}


def _told(run: ServerRun, name: str) -> dict[str, Any]:
    names = ("displayName", "groupName", "jobType", "tags", "notes", "project")
    fields = {field: run.fields.get(field) or None for field in names}
    summary = {key: value for key, value in run.summary.items() if not key.startswith("_") and not _is_media(value)}
    config = {key: value for key, value in run.config.items() if key != "_wandb"}
    # Every version of the tables and figures is a row of the search-level run, the last one counts.
    history = [sorted(row) for row in measured(run)[-1:]] if name == "search" else measured(run)
    steps = run.steps if name != "search" else sorted(set(run.steps)) == run.steps
    end = (run.state, run.exit_code, run.system_metrics)
    return {"fields": fields, "summary": summary, "config": config, "history": history, "steps": steps, "end": end}


def _is_media(value: Any) -> bool:
    return isinstance(value, dict) and "_type" in value


def differences(found: Any, expected: Any, where: str = "") -> list[str]:
    """Every place where two trees of plain data differ."""
    if isinstance(found, dict) and isinstance(expected, dict):
        keys = [*found, *(key for key in expected if key not in found)]
        return [told for key in keys for told in differences(found.get(key), expected.get(key), f"{where}/{key}")]
    return [] if found == expected else [f"{where}: {found!r} instead of {expected!r}"]


class Disturbed:
    """A search in which things go wrong: every method is one of them, and may come at any time."""

    def __init__(self, server: WandbServer, search: SearchResults) -> None:
        self.server, self.search = server, search
        self.fraction = 0.0
        self.tracker = self._new()

    def goes_on(self) -> None:
        """One trial is evaluated once more."""
        trial = self.search.trials[0]
        self.tracker.trial(until(trial, self.fraction))

    def outage(self) -> None:
        status = random.choice([500, 503, 403])
        self.server.fail = lambda _: status

    def outage_ends(self) -> None:
        self.server.fail = lambda _: None

    def client_dies(self) -> None:
        projection = self.tracker._sync._projection
        connection = projection and projection._wandb.setup()._connection
        if connection:
            connection._proc._process.kill()

    def resumes(self) -> None:
        self.tracker.finish(at(self.search, self.fraction), patience_s=30)
        self.tracker = self._new()

    def synced_meanwhile(self) -> None:
        self.tracker.finish(at(self.search, self.fraction), patience_s=30)
        replay(at(self.search, self.fraction), say=lambda _: None)
        replay(at(self.search, self.fraction), say=lambda _: None)
        self.tracker = self._new()

    def _new(self) -> Tracker:
        return Tracker(at(self.search, self.fraction), say=lambda _: None)


@pytest.fixture
def undisturbed(server: WandbServer, tmp_path: Path) -> Callable[[], dict[str, Any]]:
    search = whole_search(tmp_path / "undisturbed")
    assert replay(search).errors == 0
    return lambda: in_wandb(server, search)


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 8))])
def test_any_mix_of_disturbances_leaves_no_trace(
    server: WandbServer, tmp_path: Path, undisturbed: Callable[[], dict[str, Any]], seed: int
) -> None:
    search, draw = whole_search(tmp_path / "disturbed"), random.Random(seed)
    story = Disturbed(server, search)
    what = ("goes_on", "outage", "outage_ends", "client_dies", "resumes", "synced_meanwhile")
    for fraction in FRACTIONS:
        story.fraction = fraction
        for trial in search.trials:
            story.tracker.trial(until(trial, fraction))
            if fraction == 1.0:
                story.tracker.finish_trial(trial)
            getattr(story, draw.choice(what))()
    story.outage_ends()
    story.tracker.finish(search, patience_s=30)
    replay(search)
    assert replay(search).unsent == ()
    assert differences(in_wandb(server, search), undisturbed()) == []
    asked = len(server.requests)
    assert len(replay(search).already) == len(search.trials)
    assert server.requests[asked:] == [], "whatever is there is not asked for again"
    replay(search, whole=True)
    assert differences(in_wandb(server, search), undisturbed()) == []


@pytest.mark.parametrize("moment", ["begun", pytest.param("written", marks=pytest.mark.slow), "ended"])
def test_a_driver_that_is_killed_in_the_midst_of_writing_is_made_up_for(
    server: WandbServer, tmp_path: Path, undisturbed: Callable[[], dict[str, Any]], moment: str
) -> None:
    search = whole_search(tmp_path / "killed")
    script = (
        "import sys, time\n"
        "from dataclasses import replace\n"
        "from pathlib import Path\n"
        "from test_wandb_disturbed import at, until, write_search\n"
        "from raypo.tracking.wandb import Tracker\n"
        "results = write_search(Path(sys.argv[1]) / 'copy', trials=1)\n"
        "results = replace(results, folder=Path(sys.argv[1]) / 'killed' / 'rhymes', trials=results.trials[:2])\n"
        "tracker = Tracker(results)\n"
        "for trial in results.trials:\n"
        "    tracker.trial(until(trial, 2 / 3))\n"
        "if sys.argv[2] == 'ended':\n"
        "    tracker.finish_trial(results.trials[0])\n"
        "print('told', flush=True)\n"
        "time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    command = [sys.executable, "-c", script, str(tmp_path), moment]
    came: dict[str, Callable[[list[ServerRun]], bool]] = {
        "begun": lambda runs: len(runs) >= 1,
        "written": lambda runs: any(run.lines for run in runs),
        "ended": lambda runs: any(run.state == "finished" for run in runs),
    }
    others = set(server.runs)
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "told\n"
        wait_for(lambda: came[moment]([run for name, run in list(server.runs.items()) if name not in others]))
        process.send_signal(signal.SIGKILL)
    assert replay(search).unsent == ()
    assert differences(in_wandb(server, search), undisturbed()) == []
