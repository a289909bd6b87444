"""The pretended slots: who has nobody to wait for is never idle, and a slow neighbour is waited for."""

from slot_use import NOBODY_WAITS, WAITING, unused


def test_a_single_slot_is_never_idle() -> None:
    assert abs(unused(WAITING, [1.0], spread=0.1, trials=6, seed=0)) < 1e-9


def test_a_slow_slot_is_waited_for_only_where_somebody_looks() -> None:
    slots, trials = [1.0, 1.0, 3.0], 24
    waiting = unused(WAITING, slots, spread=0.0, trials=trials, seed=0)
    assert waiting > unused(NOBODY_WAITS, slots, spread=0.0, trials=trials, seed=0) + 0.1
