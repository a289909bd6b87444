"""What a search shows while it runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from raypo.evaluation.goals import as_measured, metric_of
from raypo.search.cluster import Cluster
from raypo.search.conductor import LedgerConductor
from raypo.search.jobs import Pulse
from raypo.search.ledger import Row
from raypo.study import Study

REFRESH_S = 0.5
LINE_EVERY_S = 10.0


class Terminal:
    """Follows a search on a console. `quiet` shows nothing (the command prints JSON)."""

    def __init__(self, console: Console, quiet: bool = False) -> None:
        self._console, self._quiet = console, quiet
        self._began = time.monotonic()
        self._rows: dict[str, Row] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._goal = "win_rate"
        self._conductor: LedgerConductor | None = None
        self._running_since = 0.0
        self._over_before = 0

    def started(self, search: str, folder: Path, study: Study) -> None:
        self._goal = (study.objective.pareto or (study.objective.metric,))[0]
        self.say(f"{search} in {folder}")
        wanted = study.resources
        self.say(f"starting {wanted.slots} slot(s) of {wanted.workers} worker(s), ZeRO {wanted.zero_stage}")

    def stage(self, text: str) -> None:
        self.say(text if self._running_since else f"preparing: {text}")

    def running(self, cluster: Cluster, conductor: LedgerConductor) -> None:
        self._conductor = conductor
        self._running_since = time.monotonic()
        for row in conductor.ledger.rows():
            self._rows[row.name] = row
        self._over_before = self._over
        wanted = "as many trials as the budget holds" if self._total is None else f"{self._total} trials"
        self.say(f"searching: {wanted} of {len(conductor.targets)} method(s)")
        self._thread = threading.Thread(target=self._follow, args=(cluster,), name="terminal", daemon=True)
        if not self._quiet:
            self._thread.start()

    def event(self, kind: str, row: Row) -> None:
        self._rows[row.name] = row
        if kind == "ended" and not self._console.is_terminal:
            why = f"  ({row.reason})" if row.reason else ""
            self.say(f"{row.name}: {row.state}{self._figures(row)}  {_settings(row)}{why}")

    def ended(self, search: str, folder: Path) -> None:  # noqa: ARG002
        self.close()

    def close(self) -> None:
        """Stop following; safe to call twice."""
        self._stop.set()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(timeout=5)

    def say(self, text: str) -> None:
        """One line with the time since the command began."""
        if not self._quiet:
            since = (f"{time.monotonic() - self._began:6.1f} s", "dim")
            self._console.print(Text.assemble(since, f"  {text}"))

    # The live part --------------------------------------------------------------------------------------------------

    def _follow(self, cluster: Cluster) -> None:
        if self._console.is_terminal:
            with Live(console=self._console, refresh_per_second=4, transient=False) as live:
                while not self._stop.wait(REFRESH_S):
                    live.update(self._table(_pulses(cluster)))
                live.update(self._table({}))
            return
        while not self._stop.wait(LINE_EVERY_S):
            running = ", ".join(f"{p.trial} {p.fraction:.0%} {p.stage}" for p in _pulses(cluster).values())
            self.say(f"{self._progress()}{f'; now {running}' if running else ''}")

    def _table(self, pulses: dict[str, Pulse]) -> Group:
        table = Table(box=None, pad_edge=False)
        chosen = [] if self._goal == "win_rate" else [metric_of(self._goal).title]
        for column in ("trial", "configuration", "done", *chosen, "win rate", "KL", "state"):
            table.add_column(column, justify="left" if column in ("trial", "configuration", "state") else "right")
        rows = sorted(self._rows.values(), key=lambda r: (r.state != "running", -_objective(r)))
        for row in rows[: max(5, self._console.height - 8)]:
            pulse = pulses.get(row.name)
            done = pulse.fraction if pulse else (row.evaluations[-1]["fraction"] if row.evaluations else 0.0)
            last = row.evaluations[-1] if row.evaluations else {}
            state = pulse.stage if pulse and row.state == "running" else row.state
            table.add_row(
                row.name,
                _settings(row),
                f"{done:.0%}",
                *([self._chosen_by(last)] if chosen else []),
                _interval(last),
                _number(last.get("kl")),
                Text(state, style=_style(row)),
            )
        return Group(table, Text(self._progress(), style="dim"))

    def _figures(self, row: Row) -> str:
        last = row.evaluations[-1] if row.evaluations else None
        if last is None:
            return ""
        chosen = "" if self._goal == "win_rate" else f"  {metric_of(self._goal).title} {self._chosen_by(last)}"
        return f"{chosen}  win rate {_interval(last)}  KL {_number(last.get('kl'))}"

    def _chosen_by(self, entry: dict[str, Any]) -> str:
        value = entry.get("objective")
        return metric_of(self._goal).say(None if value is None else as_measured(value, self._goal))

    def _progress(self) -> str:
        halted = self._conductor is not None and self._conductor.halted
        states = Counter("unfinished" if halted and not row.over else row.state for row in self._rows.values())
        over = self._over
        shown = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        spent = time.monotonic() - self._running_since
        total = self._total
        here = over - self._over_before
        left = ""
        if halted:
            left = ", paused until raypo resume"
        elif total is not None and here and over < total:
            left = f", about {_duration(spent / here * (total - over))} left"
        return f"{over}{'' if total is None else f'/{total}'} trials over ({shown}){left}"

    @property
    def _over(self) -> int:
        return sum(row.over for row in self._rows.values())

    @property
    def _total(self) -> int | None:
        """Trials that all methods get, which commands may change; None where a budget decides."""
        conductor, there = self._conductor, Counter(row.label for row in self._rows.values())
        if conductor is None:
            return 0
        wanted = {label: there[label] if label in conductor.dropped else n for label, n in conductor.targets.items()}
        return None if None in wanted.values() else sum(max(n or 0, there[label]) for label, n in wanted.items())


def _pulses(cluster: Cluster) -> dict[str, Pulse]:
    return {slot["pulse"].trial: slot["pulse"] for slot in cluster.view().values() if slot["pulse"] is not None}


def _settings(row: Row) -> str:
    return " ".join(
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}" for name, value in row.params.items()
    )


def _interval(entry: dict[str, Any]) -> str:
    if not entry or entry.get("win_rate") is None:
        return "–"
    half = (entry["ci_high"] - entry["ci_low"]) / 2
    return f"{100 * entry['win_rate']:.1f} ± {100 * half:.1f} %"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _objective(row: Row) -> float:
    """What trials are in order by; those without an evaluation come last."""
    return float(row.evaluations[-1].get("objective") or 0.0) if row.evaluations else -math.inf


def _style(row: Row) -> str:
    return {"running": "bold", "finished": "green", "failed": "red", "diverged": "magenta", "pruned": "dim"}.get(
        row.state, ""
    )


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
