import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from synthetic import write_search
from wandb_files import OfflineRun, offline_runs

from raypo.errors import StudyError
from raypo.search.results import SearchResults, TrialResult
from raypo.tracking.projection import resolve_mode
from raypo.tracking.record import rows
from raypo.tracking.wandb import Tracker, replay

HERE = Path(__file__).parent
VOLATILE = ("_timestamp", "_runtime", "_wandb", "_wandb/runtime")


def comparable(run: OfflineRun) -> SimpleNamespace:
    """A run without what differs between any two processes: clocks and the client's own notes."""
    history = [{key: value for key, value in row.items() if key not in VOLATILE} for row in run.history]
    summary = {key: value for key, value in run.summary.items() if key not in VOLATILE}
    config = {key: value for key, value in run.config.items() if key not in VOLATILE}
    end = (run.exit_code, sorted(run.tags), run.notes, run.group, run.job_type)
    return SimpleNamespace(history=history, summary=summary, config=config, end=end)


def trial_runs(results: SearchResults) -> dict[str, SimpleNamespace]:
    """The runs of a search by trial name."""
    found = {run_id.split("-", 2)[2]: run for run_id, run in offline_runs(results.folder).items()}
    return {name: comparable(run) for name, run in found.items() if name != "search"}


def until(trial: TrialResult, fraction: float) -> TrialResult:
    """A trial as it was known at a fraction of its schedule."""
    history = tuple(point for point in trial.history if point.fraction <= fraction + 1e-9)
    return replace(trial, state="running", fraction=fraction, history=history)


@pytest.fixture
def search(tmp_path: Path) -> SearchResults:
    return write_search(tmp_path / "here", trials=1)


@pytest.fixture
def undisturbed(tmp_path: Path) -> dict[str, SimpleNamespace]:
    results = write_search(tmp_path / "undisturbed", trials=1)
    replay(results, "offline")
    return trial_runs(results)


def test_every_trial_is_a_run_of_its_search_and_method(search: SearchResults) -> None:
    tracker = Tracker(search, "offline", "my-project")
    for trial in search.trials:
        for point in trial.history:
            tracker.trial(until(trial, point.fraction))
        tracker.finish_trial(trial)
    outcome = tracker.finish(search)
    assert sorted(outcome.sent) == sorted(trial.name for trial in search.trials)
    assert outcome.unsent == ()
    runs = offline_runs(search.folder)
    assert len(runs) == len(search.trials) + 1
    for trial in search.trials:
        run = next(run for name, run in runs.items() if name.endswith(f"-{trial.name}"))
        assert (run.group, run.job_type, run.project, run.exit_code) == ("rhymes", trial.method, "my-project", 0)
        assert run.run_id.startswith("rhymes-")
        assert set(run.tags) == {trial.method, "finished", "trained 100%"}
        assert run.config["beta"] == trial.hyperparameters["beta"]
        assert run.config["space.beta.log_uniform"] == search.study["methods"][trial.method]["beta"]["log_uniform"]
        assert (run.config["search"], run.config["search.sampler"], run.config["versions.git"]) == (
            "rhymes",
            "tpe",
            "0123abc",
        )
        assert run.summary["win_rate"] == trial.estimate.win_rate
        assert (run.summary["ci_low"], run.summary["ci_high"]) == (trial.estimate.ci_low, trial.estimate.ci_high)
        expected = [{**row, "_step": row["step"]} for row in rows(trial)]
        assert comparable(run).history == [pytest.approx(row) for row in expected]


def test_the_figures_of_an_evaluation_are_in_the_row_of_their_step(search: SearchResults) -> None:
    tracker = Tracker(search, "offline")
    trial = search.trials[0]
    tracker.trial(until(trial, 0.0))
    for point in trial.history:
        tracker.trial(until(trial, point.fraction))
    tracker.finish_trial(trial)
    tracker.finish(replace(search, trials=(trial,)))
    (run,) = trial_runs(search).values()
    judged = {row["_step"]: row["eval/win_rate"] for row in run.history if "eval/win_rate" in row}
    assert judged == {point.step: point.win_rate for point in trial.history}
    assert [row["_step"] for row in run.history] == [5, 10, 15, 20, 25, 30]
    assert all("loss" in row for row in run.history)


def test_a_resumed_search_leaves_one_whole_file_per_run(
    search: SearchResults, undisturbed: dict[str, SimpleNamespace]
) -> None:
    first = Tracker(search, "offline")
    halfway = replace(search, trials=tuple(until(trial, 1 / 3) for trial in search.trials))
    for trial in halfway.trials:
        first.trial(trial)
    first.finish(halfway)
    second = Tracker(search, "offline")
    for trial in search.trials:
        second.trial(until(trial, 2 / 3))
        second.finish_trial(trial)
    second.finish(search)
    assert {name: vars(run) for name, run in trial_runs(search).items()} == {
        name: vars(run) for name, run in undisturbed.items()
    }


def test_after_a_kill_replay_makes_the_runs_of_an_undisturbed_search(
    tmp_path: Path, undisturbed: dict[str, SimpleNamespace]
) -> None:
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from synthetic import write_search\n"
        "from test_wandb_offline import until\n"
        "from raypo.tracking.wandb import Tracker\n"
        "results = write_search(Path(sys.argv[1]), trials=1)\n"
        "tracker = Tracker(results, 'offline')\n"
        "tracker.finish_trial(results.trials[0])\n"
        "[tracker.trial(until(trial, 2 / 3)) for trial in results.trials[1:]]\n"
        "cursor = results.folder / 'wandb.json'\n"
        "while not cursor.exists() or 'dpo-0000' not in cursor.read_text(): time.sleep(0.05)\n"
        "while len(list((results.folder / 'wandb').glob('offline-run-*/*.wandb'))) < 4: time.sleep(0.05)\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    command = [sys.executable, "-c", script, str(tmp_path / "killed")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGKILL)
    killed = replace(write_search(tmp_path / "copy", trials=1), folder=tmp_path / "killed" / "rhymes")
    trials = tuple(replace(trial, folder=killed.folder / "trials" / trial.name) for trial in killed.trials)
    outcome = replay(replace(killed, trials=trials), "offline")
    assert outcome.already == ("dpo-0000",)
    assert {name: vars(run) for name, run in trial_runs(killed).items()} == {
        name: vars(run) for name, run in undisturbed.items()
    }


def test_replay_sends_only_what_is_missing_unless_asked_for_the_whole(search: SearchResults) -> None:
    names = tuple(sorted(trial.name for trial in search.trials))
    assert replay(search, "offline").sent == names
    again = replay(search, "offline")
    assert (again.sent, again.already) == ((), names)
    confirmed = {"win_rate": 0.6, "ci_low": 0.5, "ci_high": 0.7, "n": 500, "seeds": 2, "spread": 0.01}
    changed = replace(search, trials=(replace(search.trials[0], confirmation=confirmed), *search.trials[1:]))
    assert replay(changed, "offline").sent == (search.trials[0].name,)
    assert trial_runs(search)[search.trials[0].name].summary["win_rate"] == 0.6
    assert replay(changed, "offline", whole=True).sent == names
    assert len(trial_runs(search)) == len(names)


def test_a_step_that_was_trained_again_is_there_once_and_a_torn_line_is_left_out(
    search: SearchResults, caplog: pytest.LogCaptureFixture
) -> None:
    trial = search.trials[0]
    path = trial.folder / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:4], lines[4][:20], lines[3].replace('"loss"', '"loss": 9, "was"'), *lines[4:]]))
    steps = rows(replace(trial, history=()))
    assert [row["step"] for row in steps] == [5, 10, 15, 20, 25, 30]
    assert steps[3]["loss"] == 9
    assert "line 5 is not a logged step" in caplog.text


def test_disabled_imports_and_writes_nothing_of_wandb(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from synthetic import write_search\n"
        "from raypo.tracking.wandb import Tracker, replay\n"
        "results = write_search(Path(sys.argv[1]), trials=1)\n"
        "tracker = Tracker(results, 'disabled')\n"
        "tracker.trial(results.trials[0])\n"
        "tracker.finish_trial(results.trials[0])\n"
        "assert tracker.finish(results).unsent == ()\n"
        "assert replay(results, 'disabled').sent == ()\n"
        "assert 'wandb' not in sys.modules\n"
        "assert sorted(path.name for path in results.folder.iterdir()) == ['trials']\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=environment, check=True)


def test_a_broken_wandb_never_reaches_a_trial(search: SearchResults, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no disk")

    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr("wandb.init", broken)
        tracker = Tracker(search, "offline", say=said.append)
        begun = time.monotonic()
        for trial in search.trials:
            tracker.trial(until(trial, 1 / 3))
            tracker.finish_trial(trial)
        assert time.monotonic() - begun < 0.5
        outcome = tracker.finish(search)
    assert len(outcome.unsent) == len(search.trials)
    assert outcome.errors >= 2
    assert len(said) == 2
    assert "RuntimeError: no disk; the search goes on" in said[0]
    assert "`raypo sync rhymes` sends them" in said[1]
    assert len(replay(search, "offline").sent) == len(search.trials)


@pytest.mark.parametrize(
    ("wanted", "environment", "mode"),
    [
        ("auto", {}, "offline"),
        ("auto", {"WANDB_API_KEY": "k"}, "online"),
        ("auto", {"WANDB_MODE": "disabled", "WANDB_API_KEY": "k"}, "disabled"),
        ("online", {"WANDB_API_KEY": "k"}, "online"),
        ("offline", {"WANDB_API_KEY": "k"}, "offline"),
        ("disabled", {"WANDB_API_KEY": "k"}, "disabled"),
    ],
)
def test_auto_is_online_where_a_key_is_configured(wanted: str, environment: dict[str, str], mode: str) -> None:
    assert resolve_mode(wanted, {"NETRC": "/nowhere", **environment}) == mode


def test_a_key_in_the_netrc_file_counts_for_its_server_only(tmp_path: Path) -> None:
    path = tmp_path / "netrc"
    path.write_text("machine api.wandb.ai login user password key\n")
    assert resolve_mode("auto", {"NETRC": str(path)}) == "online"
    assert resolve_mode("auto", {"NETRC": str(path), "WANDB_BASE_URL": "https://wandb.example.com"}) == "offline"


def test_online_without_a_key_is_refused_before_anything_runs() -> None:
    with pytest.raises(StudyError, match="online needs a key, found none; run `wandb login`, or choose offline"):
        resolve_mode("online", {"NETRC": "/nowhere"})
    with pytest.raises(StudyError, match="got 'on'; allowed: auto, online, offline, disabled"):
        resolve_mode("on", {})
