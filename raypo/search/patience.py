"""Patience with a database that restarts: what a search asks of it is asked again until it answers."""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from raypo.errors import StorageError

AWAY_S = 300.0
"""How long a database may be away; a restart takes seconds, another server taking its place minutes."""
AGAIN_S = 0.5
ONCE = ("create_new_study", "create_new_trial", "delete_study", "set_trial_state_values")
"""Asked once, for doing them twice is not doing them once; raypo asks something else just before."""


def patient(storage: BaseStorage, url: str) -> BaseStorage:
    """The same storage, which asks again for a while where its database at `url` is away, and then says so."""
    waiting = _Waiting(url)
    for name, call in inspect.getmembers(storage, inspect.ismethod):
        if hasattr(BaseStorage, name) and not name.startswith("_"):
            setattr(storage, name, waiting.on(call, once=name in ONCE))
    return storage


def first_line(error: BaseException) -> str:
    """What the database's own driver says of an error."""
    return str(getattr(error, "orig", None) or error).strip().splitlines()[0]


class _Waiting:
    """Waits for one database; whoever asks, it is given up after the same time."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._since: float | None = None

    def on(self, call: Callable[..., Any], once: bool) -> Callable[..., Any]:
        """The call, with patience.

        Raises:
            StorageError: the database is away, for too long or for a call that is made but `once`.
        """

        @functools.wraps(call)
        def asking(*arguments: Any, **named: Any) -> Any:
            while True:
                try:
                    answer = call(*arguments, **named)
                except (DBAPIError, StorageInternalError) as error:
                    self._wait(error, once)
                else:
                    self._since = None
                    return answer

        return asking

    def _wait(self, error: Exception, once: bool) -> None:
        cause = error if isinstance(error, DBAPIError) else error.__cause__
        if not isinstance(cause, OperationalError | InterfaceError):
            raise error  # the database is there and refuses
        self._since = self._since or time.monotonic()
        if once or time.monotonic() - self._since > AWAY_S:
            raise StorageError(
                f"ledger: {self._url} does not answer, {first_line(cause)}; once it does, raypo resume goes on with "
                "the search where it was"
            ) from None
        time.sleep(AGAIN_S)
