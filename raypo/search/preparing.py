"""What comes before the trials: one slot makes what all of them share."""

from __future__ import annotations

from collections.abc import Callable

import ray

from raypo.errors import ClusterError
from raypo.search.cluster import Cluster
from raypo.search.commands import Commands
from raypo.search.jobs import Job

PAUSED_EARLY = (
    "pausing: what all trials share is made to its end, for it has no checkpoint, and none begins before raypo resume"
)


def prepare(cluster: Cluster, say: Callable[[str], None], stopped: Callable[[], bool]) -> None:
    """Have one slot make what all trials share, saying how far it is; who stops the search does not wait for it.

    Raises:
        ClusterError: it failed, for the reason that is told.
    """
    job = Job("prepare", "prepare", {}, 0, 1.0, kind="prepare")
    waiting = cluster.pool.submit.remote(job)
    told = ""
    while True:
        ready, _ = ray.wait([waiting], timeout=0.5)
        for slot in cluster.view().values():
            pulse = slot["pulse"]
            if pulse is not None and pulse.stage != told:
                told = pulse.stage
                say(told)
        cluster.check()
        if ready:
            break
        if stopped():
            ray.cancel(waiting)  # or Ray complains that nobody will answer it
            return
    outcome = ray.get(waiting)
    if outcome.state != "finished":
        raise ClusterError(f"preparing failed: {outcome.reason}")
    for note in outcome.evaluation.get("notes", []):
        say(note)


def is_to_stop(commands: Commands, since: float) -> bool:
    """Whether a search that is prepared is to stop; a pause is answered, and heeded once that is done."""
    halting = [command for command in commands.open() if command.halts and command.asked >= since]
    for command in halting:
        if command.halts == "pause":
            commands.close(command, PAUSED_EARLY)
    return any(command.halts == "stop" for command in halting)
