"""Something small, done again and again beside the search."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def ticking(act: Callable[[], object], every_s: float, name: str) -> Iterator[None]:
    """Call `act` every so many seconds in a thread of its own; what Ray cannot answer now is asked again."""
    over = threading.Event()
    thread = threading.Thread(target=_repeat, args=(act, every_s, over), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _repeat(act: Callable[[], object], every_s: float, over: threading.Event) -> None:
    import ray

    while not over.wait(every_s):
        with contextlib.suppress(ray.exceptions.RayError, ConnectionError):
            act()
