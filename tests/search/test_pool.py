"""The pool hands out every job once, gives lost ones out again first, and survives losing its own memory."""

import asyncio
import json
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raypo.search.jobs import Job, Outcome, Pulse
from raypo.search.pool import MAX_DEATHS, SlotPool
from raypo.search.usage import Use


def job(trial: str, until: float = 1.0) -> Job:
    return Job(trial, "dpo", {"beta": 0.1}, 0, until)


def done(trial: str) -> Outcome:
    return Outcome(trial, "finished", 1.0)


def new_pool(folder: Path, workers: int = 1, recycle_after: int = 100) -> SlotPool:
    return SlotPool(workers, recycle_after, str(folder / "pool"), str(folder / "slots.jsonl"))


async def at_work(tmp_path: Path, node: str) -> tuple[SlotPool, asyncio.Task[Outcome], Job]:
    """A pool whose one slot, on that node, has job t-0; who waits for its outcome, and the job."""
    pool = new_pool(tmp_path)
    await pool.enter("slot-0", "a", 0, node, 1)
    waiting = asyncio.create_task(pool.submit(job("t-0")))
    return pool, waiting, await soon(pool.next_job("slot-0", "a", 0))


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 20))


async def soon(awaitable: Coroutine[Any, Any, Any]) -> Any:
    return await asyncio.wait_for(awaitable, 5)


def test_every_rank_gets_the_same_job(tmp_path: Path) -> None:
    async def story() -> None:
        pool = new_pool(tmp_path, workers=2, recycle_after=100)
        for rank in (0, 1):
            await pool.enter("slot-0", "a", rank, "node", rank)
        waiting = asyncio.create_task(pool.submit(job("t-0")))
        first, second = await soon(asyncio.gather(*(pool.next_job("slot-0", "a", 0) for _ in range(2))))
        assert first == second == job("t-0")
        await pool.finished("slot-0", "a", done("t-0"), first)
        assert await soon(waiting) == done("t-0")

    run(story())


def test_a_lost_job_comes_back_first_in_line(tmp_path: Path) -> None:
    async def story() -> None:
        pool = new_pool(tmp_path, workers=1, recycle_after=100)
        await pool.enter("slot-0", "a", 0, "node", 1)
        waiting = asyncio.create_task(pool.submit(job("t-0")))
        assert (await soon(pool.next_job("slot-0", "a", 0))).trial == "t-0"
        asyncio.get_running_loop().create_task(pool.submit(job("t-1")))
        await asyncio.sleep(0)
        await pool.enter("slot-0", "b", 0, "node", 2)
        again = await soon(pool.next_job("slot-0", "b", 0))
        assert again.trial == "t-0"
        assert await pool.next_job("slot-0", "a", 1) is None, "the dead group's ranks are sent away"
        await pool.finished("slot-0", "b", done("t-0"), again)
        assert (await soon(waiting)).state == "finished"

    run(story())


def test_a_slot_whose_node_will_go_checkpoints_and_its_job_goes_on_elsewhere(tmp_path: Path) -> None:
    async def story() -> None:
        pool, waiting, held = await at_work(tmp_path, "spot")
        assert await pool.pulse("slot-0", "a", Pulse(held.id, held.trial, 0.5, "training"), held)
        await pool.draining(["spot", "another"])
        assert not await pool.pulse("slot-0", "a", Pulse(held.id, held.trial, 0.6, "training"), held), "checkpoint now"
        await pool.finished("slot-0", "a", Outcome("t-0", "stopped", 0.6, cost_s=5.0), held)
        assert not waiting.done(), "the trial knows nothing of it"
        assert await soon(pool.next_job("slot-0", "a", 1)) is None, "nothing new begins on that node"
        await pool.enter("slot-0", "b", 0, "safe", 2)
        await pool.draining(["spot"])
        again = await soon(pool.next_job("slot-0", "b", 0))
        assert again == held
        await pool.finished("slot-0", "b", replace(done("t-0"), cost_s=7.0), again)
        assert (await soon(waiting)).state == "finished"
        assert (await waiting).cost_s == 12, "with what it had cost on the node that went"

    run(story())


def test_a_trial_cancelled_on_a_leaving_node_stays_stopped(tmp_path: Path) -> None:
    async def story() -> None:
        pool, waiting, held = await at_work(tmp_path, "spot")
        await pool.draining(["spot"])
        await pool.cancel("t-0")
        await pool.finished("slot-0", "a", Outcome("t-0", "stopped", 0.6), held)
        assert (await soon(waiting)).state == "stopped"

    run(story())


def test_a_job_that_a_hasty_rank_took_is_not_forgotten(tmp_path: Path) -> None:
    """Rank 1 asks for the next job before rank 0 has delivered the last one; then the group dies."""

    async def story() -> None:
        pool = new_pool(tmp_path, workers=2)
        for rank in (0, 1):
            await pool.enter("slot-0", "a", rank, "node", rank)
        first = asyncio.create_task(pool.submit(job("t-0")))
        held, _ = await soon(asyncio.gather(*(pool.next_job("slot-0", "a", 0) for _ in range(2))))
        second = asyncio.create_task(pool.submit(job("t-1")))
        hasty = asyncio.create_task(pool.next_job("slot-0", "a", 1))
        await asyncio.sleep(0.05)
        await pool.finished("slot-0", "a", done("t-0"), held)
        assert await soon(first) == done("t-0")
        assert (await soon(hasty)).trial == "t-1"
        for rank in (0, 1):
            await pool.enter("slot-0", "b", rank, "node", 2 + rank)
        again = await soon(pool.next_job("slot-0", "b", 0))
        assert again.trial == "t-1"
        await pool.finished("slot-0", "b", done("t-1"), again)
        assert (await soon(second)).state == "finished"

    run(story())


def test_a_job_whose_outcome_dies_with_rank_0_is_not_forgotten(tmp_path: Path) -> None:
    """Rank 1 asks for the next job, and rank 0 dies before it has delivered the last one."""

    async def story() -> None:
        pool = new_pool(tmp_path, workers=2)
        for rank in (0, 1):
            await pool.enter("slot-0", "a", rank, "node", rank)
        waiting = {name: asyncio.create_task(pool.submit(job(name))) for name in ("t-0", "t-1")}
        await soon(asyncio.gather(*(pool.next_job("slot-0", "a", 0) for _ in range(2))))
        asyncio.get_running_loop().create_task(pool.next_job("slot-0", "a", 1))
        await asyncio.sleep(0.05)
        for rank in (0, 1):
            await pool.enter("slot-0", "b", rank, "node", 2 + rank)
        for index, name in enumerate(waiting):
            again = await soon(pool.next_job("slot-0", "b", index))
            assert again.trial == name
            await pool.finished("slot-0", "b", done(name), again)
            assert (await soon(waiting[name])).state == "finished"

    run(story())


@pytest.mark.parametrize("known", [True, False])
def test_a_group_that_was_given_up_and_still_lives_takes_nothing_from_the_one_in_its_place(
    tmp_path: Path, known: bool
) -> None:
    async def story() -> None:
        pool, waiting, held = await at_work(tmp_path, "unreachable")
        assert await pool.holds("slot-0", "a", held)
        await pool.dead(["unreachable"])
        slot = "slot-0" if known else "slot-1"
        await pool.enter(slot, "b", 0, "alive", 2)
        assert not await pool.pulse("slot-0", "a", Pulse(held.id, "t-0", 0.5, "training"), held), "it is to stop"
        assert await soon(pool.next_job(slot, "b", 0)) == held
        assert [await pool.holds(*group, held) for group in (("slot-0", "a"), (slot, "b"))] == [False, True]
        await pool.finished(slot, "b", done("t-0"), held)
        assert (await soon(waiting)).state == "finished"
        assert list(await pool.view()) == [slot]

    run(story())


def test_what_a_dead_node_held_goes_on_elsewhere_though_its_slot_never_comes_back(tmp_path: Path) -> None:
    async def story() -> None:
        pool = new_pool(tmp_path)
        await pool.enter("slot-0", "a", 0, "lost", 1)
        waiting = asyncio.create_task(pool.submit(job("t-0")))
        assert (await soon(pool.next_job("slot-0", "a", 0))).trial == "t-0"
        await pool.enter("slot-1", "b", 0, "alive", 2)
        for _ in range(2):  # it is told again and again
            await pool.dead(["lost"])
        again = await soon(pool.next_job("slot-1", "b", 0))
        assert again.trial == "t-0"
        await pool.finished("slot-1", "b", done("t-0"), again)
        assert (await soon(waiting)).state == "finished"
        assert list(await pool.view()) == ["slot-1"]

    run(story())


def test_work_that_came_to_nothing_is_paid_for(tmp_path: Path) -> None:
    async def story() -> None:
        pool = new_pool(tmp_path, workers=2)
        waiting = {name: asyncio.create_task(pool.submit(job(name))) for name in ("lost", "raises")}
        await asyncio.sleep(0)
        for rank in (0, 1):
            await pool.enter("slot-0", "a", rank, "node", rank)
        await soon(pool.next_job("slot-0", "a", 0))
        await asyncio.sleep(0.2)
        for rank in (0, 1):
            await pool.enter("slot-0", "b", rank, "node", 2 + rank)
        again = await soon(pool.next_job("slot-0", "b", 0))
        assert again.trial == "lost"
        assert 0.2 <= (await pool.view())["slot-0"]["elapsed_s"] < 1, "a budget knows of it before the job is done"
        await pool.finished("slot-0", "b", replace(done("lost"), cost_s=7.0), again)
        assert 7.4 <= (await soon(waiting["lost"])).cost_s < 8, "two workers had it for 0.2 s, and died"
        raises = await soon(pool.next_job("slot-0", "b", 1))
        await asyncio.sleep(0.2)
        await soon(asyncio.gather(*(pool.failed("slot-0", "b", rank, raises, "no") for rank in (0, 1))))
        outcome = await soon(waiting["raises"])
        assert outcome.state == "failed"
        assert 0.4 <= outcome.cost_s < 1

    run(story())


def test_a_job_that_kills_every_group_is_told_failed(tmp_path: Path) -> None:
    async def story() -> None:
        pool = new_pool(tmp_path, workers=1, recycle_after=100)
        waiting = asyncio.create_task(pool.submit(job("t-0")))
        for attempt in range(MAX_DEATHS):
            await pool.enter("slot-0", f"a{attempt}", 0, "node", attempt)
            await soon(pool.next_job("slot-0", f"a{attempt}", 0))
        await pool.enter("slot-0", "last", 0, "node", 9)
        outcome = await soon(waiting)
        assert outcome.state == "failed"
        assert "died" in str(outcome.reason)
        resumed = asyncio.create_task(pool.submit(job("t-0")))
        await soon(pool.next_job("slot-0", "last", 0))
        await pool.enter("slot-0", "another", 0, "node", 10)
        again = await soon(pool.next_job("slot-0", "another", 0))
        await pool.finished("slot-0", "another", done("t-0"), again)
        assert (await soon(resumed)).state == "finished", "what it did before it was resumed counts no more"

    run(story())


def test_a_job_that_gets_on_between_the_deaths_of_its_groups_is_given_out_again(tmp_path: Path) -> None:
    async def story() -> None:
        pool = new_pool(tmp_path, workers=1, recycle_after=100)
        waiting = asyncio.create_task(pool.submit(job("t-0")))
        for life in range(3 * MAX_DEATHS):
            group = f"a{life}"
            await pool.enter("slot-0", group, 0, "node", life)
            given = await soon(pool.next_job("slot-0", group, 0))
            saved = 0.1 * (life // (MAX_DEATHS - 1))
            await pool.pulse("slot-0", group, Pulse(given.id, "t-0", 0.9, "training", saved=saved), given)
            await pool.pulse("slot-0", group, Pulse(given.id, "t-0", 0.0, "generating"), given)
        await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()

    run(story())


def test_a_slot_waits_a_moment_for_the_next_part_of_its_trial(tmp_path: Path) -> None:
    async def story() -> None:
        pool = new_pool(tmp_path, workers=1, recycle_after=100)
        await pool.enter("slot-0", "a", 0, "node", 1)
        parts = asyncio.create_task(pool.submit(job("t-0", 0.5)))
        first = await soon(pool.next_job("slot-0", "a", 0))
        asyncio.get_running_loop().create_task(pool.submit(job("t-1")))
        await asyncio.sleep(0)
        await pool.finished("slot-0", "a", Outcome("t-0", "running", 0.5), first)
        await soon(parts)
        following = asyncio.create_task(pool.next_job("slot-0", "a", 1))
        await asyncio.sleep(0.05)
        asyncio.get_running_loop().create_task(pool.submit(job("t-0", 1.0)))
        assert (await soon(following)).id == job("t-0", 1.0).id

    run(story())


def test_a_failure_of_all_ranks_leaves_the_slot_alive_and_one_of_few_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raypo.search.pool.SETTLE_S", 0.3)

    async def story() -> None:
        pool = new_pool(tmp_path, workers=2, recycle_after=100)
        for rank in (0, 1):
            await pool.enter("slot-0", "a", rank, "node", rank)
        waiting = asyncio.create_task(pool.submit(job("t-0")))
        given = await soon(pool.next_job("slot-0", "a", 0))
        both = await soon(asyncio.gather(*(pool.failed("slot-0", "a", rank, given, "boom") for rank in (0, 1))))
        assert both == [True, True]
        assert (await soon(waiting)).reason == "boom"
        asyncio.get_running_loop().create_task(pool.submit(job("t-1")))
        given = await soon(pool.next_job("slot-0", "a", 1))
        assert await soon(pool.failed("slot-0", "a", 1, given, "alone")) is False

    run(story())


def test_a_job_that_breaks_the_device_is_given_out_again_and_in_the_end_told_failed_with_its_words(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        pool = new_pool(tmp_path, workers=2)
        waiting = asyncio.create_task(pool.submit(job("t-0")))
        for attempt in range(MAX_DEATHS):
            assert not waiting.done()
            for rank in (0, 1):
                await pool.enter("slot-0", f"a{attempt}", rank, "node", rank)
            given = await soon(pool.next_job("slot-0", f"a{attempt}", 0))
            assert given.trial == "t-0"
            told = [
                pool.failed("slot-0", f"a{attempt}", rank, given, "no memory", "slot" if rank else "job")
                for rank in (0, 1)
            ]
            assert await soon(asyncio.gather(*told)) == [False, False], "the group is rebuilt"
        outcome = await soon(waiting)
        assert outcome.state == "failed"
        assert "3 times" in str(outcome.reason)
        assert "no memory" in str(outcome.reason)

    run(story())


@pytest.mark.parametrize("ranks", [(0, 1), (1,)])
def test_what_hinders_every_job_stops_the_one_that_met_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranks: tuple[int, ...]
) -> None:
    monkeypatch.setattr("raypo.search.pool.SETTLE_S", 0.3)

    async def story() -> None:
        pool = new_pool(tmp_path, workers=2, recycle_after=100)
        for rank in (0, 1):
            await pool.enter("slot-0", "a", rank, "node", rank)
        waiting = asyncio.create_task(pool.submit(job("t-0")))
        given = await soon(pool.next_job("slot-0", "a", 0))
        await soon(asyncio.gather(*(pool.failed("slot-0", "a", rank, given, "no room", "search") for rank in ranks)))
        outcome = await soon(waiting)
        assert (outcome.state, outcome.reason, outcome.hinders) == ("stopped", "no room", True)

    run(story())


def test_a_restarted_pool_knows_which_slot_is_gone_and_that_it_was_closing(tmp_path: Path) -> None:
    async def story() -> None:
        before = new_pool(tmp_path)
        for slot in ("slot-0", "slot-1"):
            await before.enter(slot, "a", 0, "node", 1)
        await before.gone("slot-0")
        assert set(await new_pool(tmp_path).view()) == {"slot-1"}
        await before.close()
        assert await soon(new_pool(tmp_path).next_job("slot-1", "a", 0)) is None

    run(story())


def test_a_restarted_pool_gives_nobody_a_job_that_another_slot_has(tmp_path: Path) -> None:
    async def story() -> None:
        before = new_pool(tmp_path)
        await before.enter("slot-0", "a", 0, "node", 1)
        asyncio.get_running_loop().create_task(before.submit(job("t-0")))
        running = await soon(before.next_job("slot-0", "a", 0))
        pool = new_pool(tmp_path)
        waiting = asyncio.create_task(pool.submit(running))
        await pool.enter("slot-1", "b", 0, "node", 2)
        idle = asyncio.create_task(pool.next_job("slot-1", "b", 0))
        await asyncio.sleep(0.05)
        assert not idle.done(), "slot-0 is at it, though it has not told the new pool anything"
        await pool.finished("slot-0", "a", done("t-0"), running)
        assert (await soon(waiting)).state == "finished"
        await pool.close()
        assert await soon(idle) is None

    run(story())


def test_after_a_restart_all_ranks_still_get_the_same_jobs(tmp_path: Path) -> None:
    async def story() -> None:
        before = new_pool(tmp_path, workers=2)
        for rank in (0, 1):
            await before.enter("slot-0", "a", rank, "node", rank)
        asyncio.get_running_loop().create_task(before.submit(job("t-0")))
        first = await soon(before.next_job("slot-0", "a", 0))
        await before.finished("slot-0", "a", done("t-0"), first)
        asyncio.get_running_loop().create_task(before.submit(job("t-1")))
        asyncio.get_running_loop().create_task(before.submit(job("t-2")))
        ahead = await soon(before.next_job("slot-0", "a", 1))
        pool = new_pool(tmp_path, workers=2)
        for name in ("t-1", "t-2", "t-3"):
            asyncio.get_running_loop().create_task(pool.submit(job(name)))
        await asyncio.sleep(0)
        assert [await soon(pool.next_job("slot-0", "a", index)) for index in (0, 1)] == [first, ahead]
        await pool.finished("slot-0", "a", done("t-1"), ahead)
        both = await soon(asyncio.gather(*(pool.next_job("slot-0", "a", 2) for _ in range(2))))
        assert both == [job("t-2"), job("t-2")]

    run(story())


def test_a_cancelled_trial_is_told_so(tmp_path: Path) -> None:
    async def story() -> None:
        pool = new_pool(tmp_path, workers=1, recycle_after=100)
        await pool.enter("slot-0", "a", 0, "node", 1)
        running = asyncio.create_task(pool.submit(job("t-0")))
        given = await soon(pool.next_job("slot-0", "a", 0))
        waiting = asyncio.create_task(pool.submit(job("t-1")))
        await asyncio.sleep(0)
        await pool.cancel("t-1")
        assert (await soon(waiting)).state == "stopped"
        await pool.cancel("t-0")
        assert await pool.pulse("slot-0", "a", Pulse(given.id, "t-0", 0.3, "training"), given) is False
        await pool.finished("slot-0", "a", Outcome("t-0", "stopped", 0.3), given)
        assert (await soon(running)).state == "stopped"

    run(story())


def test_a_slot_is_recycled_after_its_jobs(tmp_path: Path) -> None:
    async def story() -> None:
        pool = new_pool(tmp_path, workers=1, recycle_after=1)
        await pool.enter("slot-0", "a", 0, "node", 1)
        waiting = asyncio.create_task(pool.submit(job("t-0")))
        given = await soon(pool.next_job("slot-0", "a", 0))
        await pool.finished("slot-0", "a", done("t-0"), given)
        await soon(waiting)
        assert await soon(pool.next_job("slot-0", "a", 1)) is None

    run(story())


def test_what_a_slot_uses_is_one_line_over_its_ranks_and_none_of_a_dead_group(tmp_path: Path) -> None:
    async def story() -> None:
        pool = new_pool(tmp_path, workers=2)
        for rank in (0, 1):
            await pool.enter("slot-0", "a", rank, "node", rank)
        asyncio.get_running_loop().create_task(pool.submit(job("t-0")))
        await soon(pool.next_job("slot-0", "a", 0))
        await pool.used("slot-0", "a", 1, Use(40.0, 3_000))
        await pool.used("slot-0", "dead", 0, Use(1.0, 1))
        await pool.used("slot-0", "a", 0, Use(60.0, 4_000))
        (line,) = (tmp_path / "slots.jsonl").read_text().splitlines()
        row = json.loads(line)
        assert row.pop("time") > 0
        assert row == {"slot": "slot-0", "trial": "t-0", "cpu_percent": 100.0, "memory_bytes": 7_000}
        await pool.enter("slot-0", "b", 0, "node", 3)
        await pool.used("slot-0", "b", 0, Use(10.0, 500, 80.0, 2**30))
        row = json.loads((tmp_path / "slots.jsonl").read_text().splitlines()[1])
        assert (row["trial"], row["cpu_percent"], row["memory_bytes"]) == (None, 10.0, 500)
        assert (row["gpu_percent"], row["gpu_memory_bytes"]) == (80.0, 2**30)

    run(story())
