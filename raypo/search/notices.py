"""Nodes that will be taken away (spot, scale-down), whose slots checkpoint just in time, and nodes that are gone.

Ray says which nodes are draining; `ray drain-node`, its autoscaler and KubeRay tell it so. It places nothing new there.
"""

from __future__ import annotations

from typing import Any

EVERY_S = 1.0


def tell_notices(pool: Any) -> None:
    """Tell the pool of draining and of dead nodes, each time anew, for a pool that was restarted has forgotten."""
    import ray
    from ray._private.state import state

    draining = sorted(state.get_draining_nodes())
    dead = [node["NodeID"] for node in ray.nodes() if not node["Alive"]]
    for nodes, tell in ((draining, pool.draining), (dead, pool.dead)):
        if nodes:
            ray.get(tell.remote(nodes), timeout=5)
