"""Notice that a node will be taken away (spot, scale-down): its slots checkpoint just in time and begin elsewhere.

Ray says which nodes are draining; `ray drain-node`, its autoscaler and KubeRay tell it so. It places nothing new there.
"""

from __future__ import annotations

from typing import Any

EVERY_S = 1.0


def tell_notices(pool: Any) -> None:
    """Tell the pool of draining nodes, each time anew, for a pool that was restarted has forgotten."""
    import ray
    from ray._private.state import state

    nodes = sorted(state.get_draining_nodes())
    if nodes:
        ray.get(pool.draining.remote(nodes), timeout=5)
