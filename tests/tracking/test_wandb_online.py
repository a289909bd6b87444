"""W&B's real client against a local server that records what arrives and fails when told to."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic import write_search
from test_wandb_offline import until
from wandb_server import ServerRun, WandbServer

from raypo.search.results import SearchResults
from raypo.tracking.record import rows
from raypo.tracking.wandb import Tracker, replay

CLOCKS = ("_timestamp", "_runtime", "_wandb")


@pytest.fixture
def search(tmp_path: Path) -> SearchResults:
    results = write_search(tmp_path, trials=1)
    return replace(results, trials=results.trials[:2])


def run_of(server: WandbServer, name: str) -> ServerRun:
    (found,) = [run for run_id, run in server.runs.items() if run_id.endswith(f"-{name}")]
    return found


def measured(run: ServerRun) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in (*CLOCKS, "_step")} for row in run.history]


def assert_undisturbed(server: WandbServer, search: SearchResults) -> None:
    """Every run holds every row of its trial once, the final figures, and the right end."""
    for trial in search.trials:
        run = run_of(server, trial.name)
        expected = rows(trial)
        assert run.steps == [row["step"] for row in expected]
        assert measured(run) == [pytest.approx(row) for row in expected]
        assert run.summary["win_rate"] == pytest.approx(trial.estimate.win_rate)
        assert run.summary["ci_low"] == pytest.approx(trial.estimate.ci_low)
        assert (run.state, run.exit_code) == ("finished", 0)
        assert set(run.fields["tags"]) == {trial.method, "finished", "trained 100%"}


def follow(tracker: Tracker, search: SearchResults, fractions: tuple[float, ...] = (1 / 3, 2 / 3, 1.0)) -> None:
    """Tell a tracker of a search as the driver does, up to the last of the fractions."""
    for trial in search.trials:
        for fraction in fractions:
            tracker.trial(until(trial, fraction))
        if fractions[-1] == 1.0:
            tracker.finish_trial(trial)


def test_a_search_arrives_whole_and_without_anything_private(server: WandbServer, search: SearchResults) -> None:
    tracker = Tracker(search, "auto", "my-project")
    assert tracker.mode == "online"
    follow(tracker, search)
    outcome = tracker.finish(search)
    assert (outcome.unsent, outcome.errors) == ((), 0)
    assert_undisturbed(server, search)
    run = run_of(server, "dpo-0000")
    assert run.fields["groupName"] == "rhymes"
    assert run.fields["jobType"] == "dpo"
    assert run.fields["displayName"] == "dpo-0000"
    assert run.fields["project"] == "my-project"
    assert run.config["objective.prompts.source"] == {"value": "…/prompts.jsonl"}
    everything = repr([(run.fields, run.config, run.files) for run in server.runs.values()])
    for private in ("jane", str(search.folder), "k" * 40):
        assert private not in everything
    assert list((search.folder / "wandb").glob("run-*")) == []


def test_a_resumed_search_appends_and_repeats_nothing(server: WandbServer, search: SearchResults) -> None:
    first = Tracker(search)
    follow(first, search, (1 / 3,))
    first.finish(replace(search, trials=tuple(until(trial, 1 / 3) for trial in search.trials)))
    before = {name: dict(run.lines) for name, run in server.runs.items()}
    assert run_of(server, "dpo-0000").steps == [5]
    second = Tracker(search)
    follow(second, search, (2 / 3, 1.0))
    second.finish(search)
    assert_undisturbed(server, search)
    for name, lines in before.items():
        if not name.endswith("-search"):
            assert {offset: server.runs[name].lines[offset] for offset in lines} == lines


def test_an_outage_delays_no_trial_and_is_made_up_for_later(server: WandbServer, search: SearchResults) -> None:
    said: list[str] = []
    tracker = Tracker(search, say=said.append)
    tracker.trial(until(search.trials[0], 1 / 3))
    wait_for(lambda: bool(server.runs))
    server.fail = lambda _: 503
    begun = time.monotonic()
    follow(tracker, search)
    assert time.monotonic() - begun < 0.2
    outcome = tracker.finish(search, patience_s=40)
    assert outcome.unsent
    assert len(said) == 2
    assert f"{len(outcome.unsent)} of 2 runs are not there" in said[1]
    server.fail = lambda _: None
    assert replay(search).unsent == ()
    assert_undisturbed(server, search)


def test_a_search_that_outlives_an_outage_catches_up_by_itself(server: WandbServer, search: SearchResults) -> None:
    server.fail = lambda _: 500
    tracker = Tracker(search, say=lambda _: None)
    follow(tracker, search, (1 / 3, 2 / 3))
    wait_for(lambda: tracker._sync.errors > 0)
    server.fail = lambda _: None
    time.sleep(0.3)
    follow(tracker, search, (1.0,))
    outcome = tracker.finish(search)
    assert outcome.unsent == ()
    assert outcome.errors >= 1
    assert_undisturbed(server, search)


def test_refused_uploads_count_as_unsent_though_the_client_says_nothing(
    server: WandbServer, search: SearchResults
) -> None:
    server.fail = lambda asked: 403 if asked.endswith("file_stream") else None
    outcome = replay(search, say=lambda _: None)
    assert (outcome.sent, len(outcome.unsent)) == ((), 2)
    assert "was not taken whole, the server says 'running'" in outcome.first_error
    server.fail = lambda _: None
    assert len(replay(search).sent) == 2
    assert_undisturbed(server, search)


def test_a_rate_limit_is_waited_out(server: WandbServer, search: SearchResults) -> None:
    answers = iter([429, 429])
    server.fail = lambda asked: next(answers, None) if asked.endswith("file_stream") else None
    one = replace(search, trials=search.trials[:1])
    outcome = replay(one, say=lambda _: None)
    if outcome.unsent:
        outcome = replay(one, say=lambda _: None)
    assert outcome.unsent == ()
    assert_undisturbed(server, one)


def test_a_slow_server_slows_no_trial(server: WandbServer, search: SearchResults) -> None:
    server.delay_s = 0.05
    tracker = Tracker(search)
    begun = time.monotonic()
    follow(tracker, search)
    assert time.monotonic() - begun < 0.2
    assert tracker.finish(search).unsent == ()
    assert_undisturbed(server, search)


def test_what_is_there_is_not_asked_for_again(server: WandbServer, search: SearchResults) -> None:
    replay(search)
    asked = len(server.requests)
    assert len(replay(search).already) == 2
    assert server.requests[asked:] == []


def test_the_client_may_die_in_the_middle(server: WandbServer, search: SearchResults) -> None:
    tracker = Tracker(search, say=lambda _: None)
    follow(tracker, search, (1 / 3,))
    wait_for(lambda: len(server.runs) == 2)
    tracker._sync._projection._wandb.setup()._connection._proc._process.kill()
    follow(tracker, search, (2 / 3, 1.0))
    outcome = tracker.finish(search)
    if outcome.unsent:
        replay(search)
    assert outcome.errors >= 1
    assert_undisturbed(server, search)


def wait_for(true: Any, limit_s: float = 20.0) -> None:
    end = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
