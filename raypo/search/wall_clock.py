"""The wall clock of a search: for how long its drivers have run trials, kept in the ledger for budgets of hours."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator

from raypo.search.commands import Commands

NOTE_EVERY_S = 10.0


class WallClock:
    """Counts on from what earlier drivers have noted, from when it is made."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands
        self._driver, self._noted = uuid.uuid4().hex[:8], 0.0
        self._earlier_s, self._ran_s = commands.wall_s(), 0.0
        self._counting: float | None = time.monotonic()
        self._off, self._paused = False, False

    @property
    def seconds(self) -> float:
        """Seconds for which all drivers have run trials."""
        return self._earlier_s + self._run_s

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """What happens here takes nothing of a budget's hours."""
        self._count(off=True, paused=self._paused)
        try:
            yield
        finally:
            self._count(off=False, paused=self._paused)

    def pause(self, paused: bool) -> None:
        """Count nothing while a search is paused, for no trial runs."""
        self._count(off=self._off, paused=paused)

    def _count(self, *, off: bool, paused: bool) -> None:
        self._ran_s, self._off, self._paused = self._run_s, off, paused
        self._counting = None if off or paused else time.monotonic()

    def note(self, *, now: bool) -> None:
        """Note in the ledger how long this driver has run, `now` or where the last note is old."""
        if now or time.monotonic() - self._noted > NOTE_EVERY_S:
            self._noted = time.monotonic()
            self._commands.note_wall(self._driver, self._run_s)

    @property
    def _run_s(self) -> float:
        """Seconds for which this driver has run trials."""
        return self._ran_s + (0.0 if self._counting is None else time.monotonic() - self._counting)
