"""Training one policy with one method: engine, log-probs, reference, loop, checkpoints, export.

Runs in any process, alone or in a torch.distributed group that its caller has opened. Start with `trainer.py`;
`settings.py` says what can be chosen, `layout.py` and `logprobs.py` how sequences become log-probs.
"""

CPU_ALLOCATION = {
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    "MALLOC_ARENA_MAX": "1",
}
"""Environment of a process that trains on a CPU, to be set before it starts: glibc keeps what a step has freed.

The next step takes as much again, and to fault that in anew took up to a tenth of it. There is one arena, for only
the main one grows beyond 64 MiB, and Ray Train runs its training function in another thread than the main one.
"""
