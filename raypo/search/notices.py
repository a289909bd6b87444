"""Notice that a node will be taken away (spot, scale-down): its slots checkpoint just in time and begin elsewhere.

Ray says which nodes are draining; `ray drain-node`, its autoscaler and KubeRay tell it so. It places nothing new there.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

EVERY_S = 1.0


@contextlib.contextmanager
def heeding_notices(pool: Any) -> Iterator[None]:
    """Tell the pool of draining nodes, from a thread of its own."""
    over = threading.Event()
    thread = threading.Thread(target=_tell, args=(pool, over), name="notices", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _tell(pool: Any, over: threading.Event) -> None:
    import ray
    from ray._private.state import state

    while not over.wait(EVERY_S):
        with contextlib.suppress(ray.exceptions.RayError, ConnectionError):  # asked again in a second
            nodes = sorted(state.get_draining_nodes())
            if nodes:  # again and again, for a pool that was restarted has forgotten
                ray.get(pool.draining.remote(nodes), timeout=5)
