"""What slots used: read from the record, in the report, and in W&B as a run for each slot."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import write_search
from test_wandb_online import run_of
from wandb_files import OfflineRun, offline_runs
from wandb_server import WandbServer

from raypo.search.results import SearchResults
from raypo.tracking.report import page
from raypo.tracking.usage import by_minute, usage
from raypo.tracking.wandb import replay

GIB = 2**30


def measurement(time_s: float, slot: str, cpu: float, memory_gib: float, **more: float) -> dict[str, object]:
    return {
        "time": time_s,
        "slot": slot,
        "trial": "dpo-0000",
        "cpu_percent": cpu,
        "memory_bytes": memory_gib * GIB,
    } | more


@pytest.fixture
def search(tmp_path: Path) -> SearchResults:
    """A search whose two slots were measured for a minute, and after a night for a minute more."""
    results = write_search(tmp_path, trials=1)
    rows = []
    for night in (0, 40_000):
        for second in range(0, 61, 10):
            rows.append(measurement(1e9 + night + second, "slot-0", 100.0 + second, 2.0, gpu_percent=90.0))
            rows.append(measurement(1e9 + night + second + 0.5, "slot-1", 50.0, 3.0))
    (results.folder / "slots.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return results


def slots(search: SearchResults) -> dict[str, OfflineRun]:
    found = {name.split("-", 2)[2]: run for name, run in offline_runs(search.folder).items()}
    return {name: run for name, run in found.items() if name.startswith("slot-")}


def test_time_is_that_of_running(search: SearchResults) -> None:
    rows = usage(search.folder)
    assert len(rows) == 28
    assert rows[-1]["minutes"] == pytest.approx((60.5 + 60 + 60.5) / 60)


def test_a_minute_is_the_mean_of_what_was_measured_in_it(search: SearchResults) -> None:
    first, second = by_minute(search.folder).values()
    assert [row["step"] for row in first] == [0, 1, 2, 3]
    assert first[0] == {"step": 0, "minutes": 0, "cpu_percent": 125.0, "memory_gib": 2.0, "gpu_percent": 90.0}
    assert {row["memory_gib"] for row in second} == {3.0}


def test_a_torn_line_is_left_out(search: SearchResults, caplog: pytest.LogCaptureFixture) -> None:
    path = search.folder / "slots.jsonl"
    path.write_text(path.read_text() + '{"time": 1.0, "sl')
    assert len(usage(search.folder)) == 28
    assert "line 29 is no measurement" in caplog.text


def test_the_report_shows_each_slot_and_nothing_where_nothing_was_measured(search: SearchResults) -> None:
    shown = page(search)
    assert "What the slots used" in shown
    for title in ("CPU, % of one core", "memory, GiB", "GPU busy, %"):
        assert title in shown
    assert "GPU memory, GiB" not in shown
    (search.folder / "slots.jsonl").unlink()
    assert "What the slots used" not in page(search)


def test_each_slot_is_a_run_and_no_run_has_what_the_driver_uses(search: SearchResults) -> None:
    replay(search, "offline")
    found = slots(search)
    assert set(found) == {"slot-0", "slot-1"}
    run, expected = found["slot-0"], by_minute(search.folder)["slot-0"]
    assert (run.group, run.job_type, run.exit_code, run.steps) == ("rhymes", "slot", 0, [0, 1, 2, 3])
    assert [row["cpu_percent"] for row in run.history] == [row["cpu_percent"] for row in expected]
    assert all(run.system_metrics == 0 for run in offline_runs(search.folder).values())


def test_online_a_minute_arrives_once_however_often_it_is_sent(server: WandbServer, search: SearchResults) -> None:
    begun = replace(search, trials=(replace(search.trials[0], state="running"), *search.trials[1:]))
    replay(begun)
    assert run_of(server, "slot-0").steps == [0, 1, 2], "the last minute may not be over"
    replay(search)
    replay(search, whole=True)
    for slot, rows in by_minute(search.folder).items():
        history = run_of(server, slot).history
        assert [row["_step"] for row in history] == [0, 1, 2, 3]
        assert [row["cpu_percent"] for row in history] == [row["cpu_percent"] for row in rows]
    assert all(run.system_metrics == 0 for run in server.runs.values())
