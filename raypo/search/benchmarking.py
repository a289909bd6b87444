"""Benchmarks of the finalists: each method's winner, once the search and its confirmation are over."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from raypo.search.jobs import Job, Together
from raypo.search.ledger import Ledger, Row
from raypo.search.ranking import winner
from raypo.study import Study


def finalists(study: Study, ledger: Ledger) -> list[Row]:
    """The winner of every method whose benchmarks are not in the ledger yet; nobody where the study asks for none."""
    if study.benchmarks is None:
        return []
    found = [winner(ledger.rows(label)) for label in study.methods]
    return [row for row in found if row is not None and row.benchmarks is None]


def benchmark(
    ledger: Ledger, rows: Sequence[Row], job_of: Callable[[Row], Job], together: Together, say: Callable[[str], None]
) -> None:
    """Evaluate the models of some trials on the study's tasks, on the slots; what fails is said and left open."""
    by_name = {row.name: row for row in rows}
    for outcome in together([job_of(row).benchmarked() for row in rows]):
        if outcome.state != "finished":
            say(f"benchmarks of {outcome.trial}: {outcome.reason}; raypo resume tries again")
            continue
        scores = outcome.evaluation["scores"]
        ledger.benchmark(by_name[outcome.trial], scores)
        say(f"{outcome.trial}: {len(scores)} benchmark figures")
