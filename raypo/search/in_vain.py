"""A search of which nothing but failures comes is stopped, in place of spending its budget on more of them."""

from __future__ import annotations

from collections.abc import Callable

from raypo.search.ledger import Row

LEAST = 10
"""Failures in a row that stop a search; fewer come from a corner of its space where no trial has room."""


class InVain:
    """Counts the trials that failed since one was evaluated; `stop` is told why at the last that is allowed.

    All slots may be in that corner at once, so twice as many as there are `slots` are allowed.
    """

    def __init__(self, slots: int, stop: Callable[[str], None]) -> None:
        self._allowed, self._stop, self._failed = max(LEAST, 2 * slots), stop, 0

    def heard(self, kind: str, row: Row) -> None:
        """Take an event of the search into account."""
        if kind == "evaluated":
            self._failed = 0
        elif kind == "ended" and row.state == "failed":
            self._failed += 1
            if self._failed == self._allowed:
                self._stop(
                    f"{self._failed} trials failed one after another and none was evaluated meanwhile, the last "
                    f"{row.name}: {row.reason}"
                )
