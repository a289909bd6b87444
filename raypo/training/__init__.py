"""Training one policy with one method: engine, log-probs, reference, loop, checkpoints, export.

Runs in any process, alone or in a torch.distributed group that its caller has opened. Start with `trainer.py`;
`settings.py` says what can be chosen, `layout.py` and `logprobs.py` how sequences become log-probs.
"""

import os

# Large pages for torch's CPU tensors: a step's buffers come and go, and a fault per 4 KiB cost a tenth of its time.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
