"""What Ray Train leaves on the cluster: places that a dead controller reserved, and controllers nobody waits for.

Ray removes a placement group with its job, which is the whole search: a controller that dies leaves its slot's place
taken, and the next one would wait for it for ever. Ray Train's own cleaner is one process more for every slot, and does
not learn of a group before its workers have started; it is left out (`groups`).
"""

from __future__ import annotations

EVERY_S = 2.0


def end_controllers() -> int:
    """End the controllers of this job's worker groups, to which Ray Train gives no handle; returns how many."""
    import ray
    from ray._private.state import actors
    from ray._private.worker import global_worker
    from ray._raylet import ActorID

    ours = ray.get_runtime_context().get_job_id()
    left = [
        name
        for name, actor in actors().items()
        if actor["ActorClassName"] == "TrainController" and actor["JobID"] == ours and actor["State"] != "DEAD"
    ]
    for name in left:
        global_worker.core_worker.kill_actor(ActorID.from_hex(name), True)  # type: ignore[attr-defined]
    return len(left)


def release_orphans() -> int:
    """Remove this job's placement groups whose creator is a dead actor; returns how many there were."""
    import ray
    from ray._private.state import state
    from ray._raylet import ActorID, PlacementGroupID
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # type: ignore[attr-defined]
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    job = ray.get_runtime_context().get_job_id()
    known = map(PlacementGroupTableData.FromString, state._connect_and_get_accessor().get_placement_group_table())
    orphans = [
        group
        for group in known
        if group.creator_actor_dead
        and not ActorID(group.creator_actor_id).is_nil()  # the driver's own count as a dead actor's too
        and not group.is_detached
        and group.creator_job_id.hex() == job
        and group.state != PlacementGroupTableData.REMOVED
    ]
    for group in orphans:
        remove_placement_group(PlacementGroup(PlacementGroupID(group.placement_group_id)))
    return len(orphans)
