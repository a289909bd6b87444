"""What gives way when an example is too long; every cut is counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from raypo.errors import DataError

Truncation = Literal["prompt_start", "prompt_end", "completion_end", "drop"]
TRUNCATIONS: tuple[str, ...] = get_args(Truncation)


@dataclass(frozen=True)
class Limits:
    """Lengths in tokens.

    prompt_start, prompt_end: that side of the prompt is dropped first, down to `max_prompt_length` or half of
    `max_length`, whichever is less; what is still too long is cut from the completion's end.
    completion_end: only completions are cut, and examples whose prompt is too long are dropped.
    drop: examples that are too long are dropped.
    """

    max_length: int
    max_prompt_length: int | None = None
    truncation: Truncation = "prompt_start"

    def __post_init__(self) -> None:
        if self.truncation not in TRUNCATIONS:
            raise DataError(f"data.truncation: no such way, got {self.truncation!r}; allowed: {', '.join(TRUNCATIONS)}")
        if self.max_length < 2:
            raise DataError(
                f"data.max_length: needs room for a prompt and an answer, got {self.max_length}; at least 2"
            )
        if self.max_prompt_length is not None and not 0 < self.max_prompt_length < self.max_length:
            raise DataError(
                f"data.max_prompt_length: must lie in 1..{self.max_length - 1} (max_length is {self.max_length}), "
                f"got {self.max_prompt_length}"
            )

    @property
    def prompt_room(self) -> int:
        return self.max_prompt_length or self.max_length - 1

    def kept(self, prompt: int, longest_completion: int) -> tuple[int, int] | str:
        """Tokens kept of prompt and completions (at most), or the reason why the example is dropped."""
        over = prompt + longest_completion - self.max_length
        if self.truncation in ("completion_end", "drop"):
            if prompt > self.prompt_room:
                return "prompt_too_long"
            if over > 0 and self.truncation == "drop":
                return "too_long"
            return prompt, self.max_length - prompt
        floor = min(self.prompt_room, max(1, self.max_length // 2))
        keep = min(prompt, self.prompt_room, max(floor, self.max_length - longest_completion))
        return keep, self.max_length - keep


def kept_prompt(ids: Sequence[int] | np.ndarray, keep: int, cut: Truncation, bos: int | None) -> np.ndarray:
    """Positions, `keep` >= 1 of them, of a longer prompt that stay; BOS stays whichever side goes."""
    if cut == "prompt_end":
        return np.arange(keep)
    if ids[0] == bos:
        return np.concatenate([[0], np.arange(len(ids) - keep + 1, len(ids))])
    return np.arange(len(ids) - keep, len(ids))
