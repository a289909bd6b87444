"""A process measures itself beside its work, and a measurement that fails harms nobody."""

import math
import threading
import time

import numpy as np
import psutil
import pytest

from raypo.search.usage import Use, measured


def busy(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        math.sqrt(2.0)


def test_cpu_and_memory_are_those_of_this_process() -> None:
    told: list[Use] = []
    held = None
    with measured(told.append, every_s=0.1):
        busy(0.3)
        while len(told) < 3:
            time.sleep(0.02)
        held = np.ones(2**25)
        before = len(told)
        while len(told) < before + 2:
            time.sleep(0.02)
    assert max(use.cpu_percent for use in told) > 20
    assert told[-1].memory_bytes - told[0].memory_bytes > 0.9 * held.nbytes
    assert told[-1].memory_bytes == pytest.approx(psutil.Process().memory_info().rss, rel=0.5)
    assert (told[0].gpu_percent, told[0].gpu_memory_bytes) == (None, None)
    count = len(told)
    time.sleep(0.3)
    assert len(told) <= count + 1, "nothing is measured after the block"


def test_a_measurement_that_fails_is_said_once_and_harms_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: Use) -> None:
        raise OSError("no pool")

    with measured(broken, every_s=0.02):
        while not caplog.records:
            time.sleep(0.01)
        while any(thread.name == "raypo-usage" for thread in threading.enumerate()):
            time.sleep(0.01)
    (record,) = caplog.records
    assert "measured no more" in record.message
