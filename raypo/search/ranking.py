"""Which of a method's finished trials are best: for confirmation, for benchmarks, and for whose model is kept."""

from __future__ import annotations

from collections.abc import Sequence

from raypo.evaluation.goals import front
from raypo.search.rows import Row


def merit(row: Row) -> tuple[bool, float]:
    """What evaluated trials are ordered by, larger is better: judged on every prompt, then the (first) objective."""
    last = row.evaluations[-1]
    return "not_judged" not in last, float(last["objective"])


def point(row: Row) -> tuple[float, ...]:
    """A trial's values where the search has several objectives, larger is better; empty where it has one."""
    return tuple(row.evaluations[-1].get("objectives", ()))


def winner(rows: Sequence[Row]) -> Row | None:
    """The best finished trial of one method, of the confirmed ones where there are any."""
    best = ranked(rows)
    confirmed = {
        row.name: float(row.confirmation.get("objective", row.confirmation["win_rate"]))
        for row in best
        if row.confirmation is not None and row.confirmation["seeds"]
    }
    return max(
        (row for row in best if row.name in confirmed),
        key=lambda row: confirmed[row.name],
        default=best[0] if best else None,
    )


def ranked(rows: Sequence[Row]) -> list[Row]:
    """The finished trials of one method, best first; with several objectives those of the front come before others."""
    finished = [row for row in rows if row.state == "finished" and row.evaluations]
    unbeaten = {finished[i].name for i in front([point(row) for row in finished])} if finished else set()
    return sorted(finished, key=lambda row: (row.name in unbeaten, *merit(row)), reverse=True)
