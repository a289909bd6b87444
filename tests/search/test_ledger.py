"""The ledger remembers every trial once, whatever happens to those who write to it."""

from pathlib import Path

import pytest

from raypo.errors import StorageError
from raypo.search.jobs import Outcome
from raypo.search.ledger import Ledger
from raypo.search.samplers import make_sampler
from raypo.spaces import Space

SPACE = {"beta": Space("log_uniform", (0.01, 1.0)).distribution()}


def evaluated(name: str, fraction: float, value: float) -> Outcome:
    return Outcome(name, "running", fraction, 10, {"objective": value, "win_rate": value, "kl": 1.0}, cost_s=2.0)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.journal", "s")


def draw(ledger: Ledger, label: str = "dpo"):
    return ledger.ask(label, make_sampler("random", 0, SPACE), seed=7)


def test_a_trial_is_drawn_recorded_and_finished(ledger: Ledger) -> None:
    row = draw(ledger)
    assert (row.name, row.state, row.seed) == ("dpo-0000", "running", 7)
    row = ledger.record(row, 0, evaluated(row.name, 0.5, 0.6))
    row = ledger.record(row, 1, evaluated(row.name, 1.0, 0.7))
    row = ledger.end(row, "finished")
    assert row.state == "finished"
    assert [e["win_rate"] for e in row.evaluations] == [0.6, 0.7]
    assert row.cost_s == 4.0
    assert ledger.study("dpo").best_value == 0.7


@pytest.mark.parametrize("enqueued", [False, True])
def test_no_crash_leaves_a_trial_half_drawn(tmp_path: Path, enqueued: bool) -> None:
    """The journal cut after any of its lines: whoever runs has all its values and its seed."""
    journal = tmp_path / "ledger.journal"
    ledger = Ledger(journal, "s")
    if enqueued:
        ledger.enqueue("dpo", {"beta": 0.5}, "test")
    whole = draw(ledger)
    lines = journal.read_bytes().splitlines(keepends=True)
    for count in range(1, len(lines) + 1):
        journal.write_bytes(b"".join(lines[:count]))
        again = Ledger(journal, "s")
        assert all((row.params, row.seed) == (whole.params, 7) for row in again.rows("dpo") if row.state == "running")
        assert draw(again).params.keys() == whole.params.keys()


def test_an_evaluation_is_written_once(ledger: Ledger) -> None:
    row = ledger.record(draw(ledger), 0, evaluated("dpo-0000", 0.5, 0.6))
    again = ledger.record(row, 0, evaluated(row.name, 0.5, 0.9))
    assert [e["win_rate"] for e in again.evaluations] == [0.6]


def test_a_trial_that_finishes_in_the_end_has_no_reason_of_an_end_that_a_crash_prevented(tmp_path: Path) -> None:
    journal = tmp_path / "ledger.journal"
    ledger = Ledger(journal, "s")
    ledger.end(draw(ledger), "failed", "out of memory")
    lines = journal.read_bytes().splitlines(keepends=True)
    reasoned = next(i for i, line in enumerate(lines) if b"out of memory" in line)
    journal.write_bytes(b"".join(lines[: reasoned + 1]))
    again = Ledger(journal, "s")
    (row,) = again.rows()
    assert row.state == "running"
    row = again.end(again.record(row, 0, evaluated(row.name, 1.0, 0.7)), "finished")
    assert (row.state, row.reason) == ("finished", None)


def test_an_ended_trial_stays_ended(ledger: Ledger) -> None:
    row = ledger.record(draw(ledger), 0, evaluated("dpo-0000", 1.0, 0.6))
    ledger.end(row, "finished")
    assert ledger.end(row, "failed", "later").state == "finished"


@pytest.mark.parametrize("state", ["failed", "diverged", "stopped"])
def test_a_trial_without_result_tells_the_sampler_no_value(ledger: Ledger, state: str) -> None:
    row = ledger.record(draw(ledger), 0, evaluated("dpo-0000", 0.5, 0.99))
    row = ledger.end(row, state, "KL 300 over the limit of 100", cost_s=3.0)
    assert (row.state, row.reason, row.cost_s) == (state, "KL 300 over the limit of 100", 5.0)
    assert ledger.frozen(row).value is None


def test_another_process_reads_the_same(ledger: Ledger, tmp_path: Path) -> None:
    row = ledger.record(draw(ledger), 0, evaluated("dpo-0000", 0.5, 0.6))
    draw(ledger, "ipo")
    other = Ledger(tmp_path / "ledger.journal", "s")
    assert other.labels() == ["dpo", "ipo"]
    assert other.row("dpo-0000") == row
    with pytest.raises(StorageError, match="no trial 'dpo-²'"):
        other.row("dpo-²")
    with pytest.raises(StorageError, match="no trial 'dpo-0009'"):
        other.row("dpo-0009")


def test_a_trial_is_found_without_a_look_at_all_that_a_database_holds(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = draw(ledger)
    monkeypatch.delattr(type(ledger.storage), "get_all_studies")
    assert ledger.row("dpo-0000") == row
    with pytest.raises(StorageError, match="no trial 'ipo-0000'"):
        ledger.row("ipo-0000")
    with pytest.raises(StorageError, match="no trial '@control-0'"):
        ledger.row("@control-0")


def test_searches_in_one_storage_stay_apart(tmp_path: Path) -> None:
    draw(Ledger(tmp_path / "ledger.journal", "one"))
    assert Ledger(tmp_path / "ledger.journal", "two").labels() == []


def test_enqueued_values_come_first(ledger: Ledger) -> None:
    for _ in range(2):
        ledger.enqueue("dpo", {"beta": 0.25}, "prior:0")
    assert draw(ledger).params == {"beta": 0.25}
    assert draw(ledger).params != {"beta": 0.25}, "what one source asks for is tried once"


def test_an_ended_trial_goes_on_under_its_name(ledger: Ledger) -> None:
    row = ledger.record(draw(ledger), 0, evaluated("dpo-0000", 0.5, 0.6))
    ended = ledger.end(row, "failed", "the disk is full", cost_s=3.0)
    other = draw(ledger)
    for _ in range(2):
        resumed = ledger.resumed(ended, "command:1")
    assert (resumed.name, resumed.state, resumed.params, resumed.seed) == (row.name, "running", row.params, 7)
    assert (resumed.evaluations, resumed.cost_s, resumed.reason) == (row.evaluations, 5.0, None)
    resumed = ledger.end(ledger.record(resumed, 1, evaluated(row.name, 1.0, 0.7)), "finished")
    assert [r.name for r in ledger.rows()] == [other.name, row.name], "the one that it replaces is not counted again"
    assert ledger.row(row.name) == resumed
    again = ledger.resumed(ledger.end(other, "stopped"), "command:2")
    assert ledger.row(other.name) == again


def test_a_paused_trial_stays_so_and_keeps_its_costs(ledger: Ledger, tmp_path: Path) -> None:
    row = draw(ledger)
    ledger.spend(row, 2.0)
    ledger.mark(ledger.row(row.name), "paused", "paused by command")
    other = Ledger(tmp_path / "ledger.journal", "s").row(row.name)
    assert (other.state, other.over, other.cost_s) == ("paused", False, 2.0)
    assert ledger.mark(other, "running").state == "running"
