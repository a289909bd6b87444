"""The pool: one asynchronous actor that hands jobs to slots and outcomes back to trials.

Slots pull: every rank of a slot asks for its next job and waits here, never inside a collective. A job that a dead
worker group held is given out again, first in line. A restarted pool reads which group has which job from its files and
learns the rest from the trials, which submit again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from raypo.search.jobs import Fault, Job, Outcome, Pulse
from raypo.search.losses import Losses
from raypo.search.slot_states import SlotState, forget, recall, remember, remember_closing
from raypo.search.usage import Use, keep

AFFINITY_S = 0.25
"""How long an idle slot waits for its trial's next part: its engine has the shape, its machine the checkpoint."""
MAX_DEATHS = 3
"""How many worker groups in a row one job may take with it from one checkpoint on before it is told failed."""
SETTLE_S = 5.0
"""How long all ranks have to report the same failure before the worker group counts as broken."""


class SlotPool:
    """Queue, slots and waiting trials of one search.

    `memory` is the folder that a restarted pool goes on from, `usage` the file with the record of what the slots use.
    """

    def __init__(self, workers: int, recycle_after: int, memory: str, usage: str) -> None:
        self._workers = workers
        self._recycle_after = recycle_after
        self._queue: deque[Job] = deque()
        self._futures: dict[str, asyncio.Future[Outcome]] = {}
        self._losses = Losses()
        self._cancelled: set[str] = set()
        self._changed = asyncio.Condition()
        self._memory, self._usage = Path(memory), Path(usage)
        self._given: Counter[str] = Counter()
        self._slots, self._closing = recall(self._memory, time.monotonic())
        self._leaving = False

    # Trials ---------------------------------------------------------------------------------------------------------

    async def submit(self, job: Job) -> Outcome:
        """Have a job run and wait for its outcome; submitting it again waits for the same outcome."""
        if job.trial in self._cancelled:
            return _stopped(job)
        if job.id not in self._futures:
            self._futures[job.id] = asyncio.get_running_loop().create_future()
            if not any(slot.current and slot.current.id == job.id for slot in self._slots.values()):
                self._queue.append(job)
            await self._notify()
        outcome = await asyncio.shield(self._futures[job.id])
        self._futures.pop(job.id, None)
        return outcome

    async def cancel(self, trial: str) -> None:
        """Have a trial's running job stop at its next step, and its waiting one never start."""
        self._cancelled.add(trial)
        for job in [job for job in self._queue if job.trial == trial]:
            self._queue.remove(job)
            self._resolve(job, _stopped(job))

    async def cancelled(self, trial: str) -> bool:
        return trial in self._cancelled

    async def forget(self, trial: str) -> None:
        """Allow a cancelled trial to run again."""
        self._cancelled.discard(trial)

    # Slots ----------------------------------------------------------------------------------------------------------

    async def enter(self, slot: str, attempt: str, rank: int, node: str, pid: int) -> None:
        """A rank of a (new) worker group is there, on a Ray node; what the earlier group held goes first in line."""
        known = self._slots.get(slot)
        if known is None or known.attempt != attempt:
            if known is not None and known.current is not None:
                await self._lost(known.current, known)
            self._slots[slot] = SlotState(attempt)
        self._slots[slot].pids[rank] = (node, pid)
        await self._tell(slot)

    async def next_job(self, slot: str, attempt: str, index: int) -> Job | None:
        """The index-th job of this worker group, the same for every rank; None means leave the loop.

        There is none before the last one's outcome was delivered, for that is lost where rank 0 dies before.
        """
        async with self._changed:
            while True:
                state = self._slots.get(slot)
                if state is None or state.attempt != attempt:
                    return None
                if index in state.jobs:
                    return state.jobs[index]
                if state.current is None:
                    job = self._choose(state)
                    if job is not None or self._closing or state.leaving or state.served >= self._recycle_after:
                        state.give(index, job, time.monotonic())
                        self._given[slot] += job is not None
                        remember(self._memory, slot, state)
                        self._changed.notify_all()
                        return job
                await self._wait()

    async def pulse(self, slot: str, attempt: str, pulse: Pulse, job: Job) -> bool:
        """Rank 0 says where it is; the answer is whether to go on, which a group that was given up does not."""
        state = self._slots.get(slot)
        if state is None or state.attempt != attempt:
            return False
        if state.current is not None and state.current.id == job.id:
            state.pulse, state.saved = pulse, max(state.saved, pulse.saved)
        return job.trial not in self._cancelled and not self._leaving and not state.leaving

    async def holds(self, slot: str, attempt: str, job: Job) -> bool:
        """Whether a group still has its job, which goes to another one when it was given up."""
        state = self._slots.get(slot)
        return (
            state is not None and state.attempt == attempt and state.current is not None and state.current.id == job.id
        )

    async def used(self, slot: str, attempt: str, rank: int, use: Use) -> None:
        """A rank says what its process uses; with rank 0's word the slot's line is written."""
        state = self._slots.get(slot)
        if state is not None and state.attempt == attempt:
            state.uses[rank] = use
            if rank == 0:
                trial = state.current.trial if state.current else None
                keep(self._usage, slot, trial, list(state.uses.values()))

    async def finished(self, slot: str, attempt: str, outcome: Outcome, job: Job) -> None:
        """Rank 0 delivers an outcome; every rank has come to the end of the job."""
        state, moving = self._slots.get(slot), False
        if state is not None and state.attempt == attempt:
            moving = state.leaving and outcome.state == "stopped"
            if state.current is not None and state.current.id == job.id:  # else a restarted pool is told once more
                state.current, state.pulse = None, None
            state.held = job.trial
            state.held_until = 0.0 if outcome.over else time.monotonic() + AFFINITY_S
            state.served += 1
            state.busy_s += outcome.cost_s
        self._queue = deque(waiting for waiting in self._queue if waiting.id != job.id)
        if moving and not self._leaving and job.trial not in self._cancelled:
            self._losses.spend(job.id, outcome.cost_s)
            self._queue.appendleft(job)
        else:
            self._resolve(job, outcome)
        await self._tell(slot)

    async def failed(self, slot: str, attempt: str, rank: int, job: Job, error: str, fault: Fault = "job") -> bool:
        """A rank's job raised; whether the slot may go on, else the group must be rebuilt.

        It may where all ranks raised, and none of them broke the slot. A `fault` of the search's, which hinders every
        other job too, is no failure of this one, which stops.
        """
        state = self._slots.get(slot)
        if state is None or state.attempt != attempt:
            return False
        state.reports[rank] = error
        state.faults.add(fault)
        deadline = time.monotonic() + SETTLE_S
        async with self._changed:
            self._changed.notify_all()
            while len(state.reports) < self._workers and time.monotonic() < deadline:
                await self._wait()
        whole = len(state.reports) == self._workers and "slot" not in state.faults
        if state.current is not None and state.current.id == job.id:
            spent_s, first = self._held_s(state), state.reports[min(state.reports)] or error
            state.current, state.pulse, state.held = None, None, None
            state.served += 1
            if "search" in state.faults:
                self._resolve(job, Outcome(job.trial, "stopped", 0.0, reason=first, cost_s=spent_s, hinders=True))
            elif whole:
                self._resolve(job, Outcome(job.trial, "failed", 0.0, reason=first, cost_s=spent_s))
            else:  # a dead, stuck or broken rank makes the others raise: the group is at fault, not yet the job
                await self._lost(job, state, first)
        await self._tell(slot)
        return whole

    async def given(self, slot: str) -> int:
        """How many jobs the worker groups of a slot were given; begins anew with the pool."""
        return self._given[slot]

    async def gone(self, slot: str) -> None:
        """A slot's worker group is known to be dead before a new one has entered."""
        state = self._slots.pop(slot, None)
        if state is not None and state.current is not None:
            await self._lost(state.current, state)
        await self._tell(slot)

    async def dead(self, nodes: Sequence[str]) -> None:
        """Nodes are gone; what a slot with a rank on them held goes on elsewhere, for it may never come back."""
        for name, state in list(self._slots.items()):
            if any(node in nodes for node, _ in state.pids.values()):
                await self.gone(name)

    async def draining(self, nodes: Sequence[str]) -> None:
        """Have slots with a rank on nodes that will go checkpoint, hand their job back and begin elsewhere."""
        for state in self._slots.values():
            state.leaving = state.leaving or any(node in nodes for node, _ in state.pids.values())
        await self._notify()

    # Everybody ------------------------------------------------------------------------------------------------------

    async def close(self, at_once: bool = False) -> None:
        """Let every slot leave its loop once its present job is done, or `at_once` after a checkpoint."""
        self._closing = True
        self._leaving = at_once
        remember_closing(self._memory)
        await self._notify()

    async def view(self) -> dict[str, dict[str, object]]:
        """What each slot is doing, for the live table."""
        return {
            name: {
                "trial": slot.current.trial if slot.current else None,
                "elapsed_s": self._elapsed_s(slot),
                "pulse": slot.pulse,
                "served": slot.served,
                "busy_s": slot.busy_s,
                "pids": dict(slot.pids),
            }
            for name, slot in self._slots.items()
        }

    def _choose(self, state: SlotState) -> Job | None:
        if not self._queue or self._closing or state.leaving:
            return None
        for job in self._queue:
            if job.trial == state.held:
                self._queue.remove(job)
                return job
        return None if time.monotonic() < state.held_until else self._queue.popleft()

    def _held_s(self, state: SlotState) -> float:
        """Device-seconds for which a slot has had its job."""
        return (time.monotonic() - state.since) * self._workers

    def _elapsed_s(self, state: SlotState) -> float:
        """How long a slot's job takes so far, with what it took on slots that it was lost by."""
        if state.current is None:
            return 0.0
        return (self._held_s(state) + self._losses.spent_s(state.current.id)) / self._workers

    async def _lost(self, job: Job, state: SlotState, error: str = "the workers' logs say why") -> None:
        if self._losses.count(job.id, self._held_s(state), state.saved) >= MAX_DEATHS:
            reason = f"its worker group died {MAX_DEATHS} times without getting on; {error}"
            self._resolve(job, Outcome(job.trial, "failed", 0.0, reason=reason))
        elif job.id in self._futures and not self._futures[job.id].done():
            self._queue.appendleft(job)

    def _resolve(self, job: Job, outcome: Outcome) -> None:
        spent_s = self._losses.settle(job.id)
        future = self._futures.setdefault(job.id, asyncio.get_running_loop().create_future())
        if not future.done():
            future.set_result(replace(outcome, cost_s=outcome.cost_s + spent_s))

    async def _tell(self, slot: str) -> None:
        """Write down what a slot is at, and let those who wait look again."""
        if slot in self._slots:
            remember(self._memory, slot, self._slots[slot])
        else:
            forget(self._memory, slot)
        await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _wait(self) -> None:
        """Wait for a change; wakes up by itself so that deadlines are met."""
        with contextlib.suppress(asyncio.TimeoutError, TimeoutError):
            await asyncio.wait_for(self._changed.wait(), timeout=AFFINITY_S)


def _stopped(job: Job) -> Outcome:
    return Outcome(job.trial, "stopped", 0.0, reason="stopped by command")
