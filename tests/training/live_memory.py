"""The most bytes that a piece of work holds at once, as the CPU allocator counts them: scratch of kernels included."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor
from torch.profiler import ProfilerActivity, profile


def peak_bytes(work: Callable[[], Sequence[Tensor]]) -> int:
    """Most bytes held at once beyond what was there before `work` and what it returns."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        results = work()
    with TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiled.export_chrome_trace(str(trace))
        events = [event for event in json.loads(trace.read_text())["traceEvents"] if event["name"] == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: (event["ts"], event["args"]["Ev Idx"])):
        live += event["args"]["Bytes"]
        peak = max(peak, live)
    returned = sum(tensor.nbytes for tensor in results)
    assert live == returned, "work keeps nothing but its results"
    return peak - returned
