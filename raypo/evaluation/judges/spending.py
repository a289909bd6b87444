"""What judging has cost, and where it ends."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

from raypo.errors import JudgeUnavailable
from raypo.evaluation.judges.cache import SharedLines
from raypo.evaluation.judges.templates import Reply


@dataclass(frozen=True)
class Budget:
    """What may be spent: price of a million prompt and completion tokens, and a limit in the same currency."""

    prompt_price: float = 0.0
    completion_price: float = 0.0
    limit: float | None = None

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.prompt_price + completion_tokens * self.completion_price) / 1e6


@dataclass
class Spending:
    """Calls and tokens so far, of all processes that write to `folder` (of this one alone where it is None)."""

    budget: Budget = field(default_factory=Budget)
    folder: Path | None = None
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __post_init__(self) -> None:
        self._lines = None if self.folder is None else SharedLines(self.folder)
        self._lock = threading.Lock()

    @property
    def cost(self) -> float:
        return self.budget.cost(self.prompt_tokens, self.completion_tokens)

    def add(self, reply: Reply) -> None:
        """Count one answered call."""
        with self._lock:
            if self._lines is None:
                self._count(reply.prompt_tokens, reply.completion_tokens)
            else:
                self._lines.append([reply.prompt_tokens, reply.completion_tokens])
                self._read_on()

    def check(self) -> None:
        """Raise JudgeUnavailable once the budget is spent; calls already under way still end."""
        with self._lock:
            self._read_on()
            if self.budget.limit is not None and self.cost >= self.budget.limit:
                raise JudgeUnavailable(
                    f"judge llm: the budget of {self.budget.limit:g} is spent ({self.cost:.4g} in {self.calls} calls); "
                    "a fork with a higher one (raypo fork NAME NEW --set objective.judge.max_cost=...) keeps the "
                    "finished trials and every verdict that was paid for"
                )

    def _read_on(self) -> None:
        for line in () if self._lines is None else self._lines.new():
            self._count(*line)

    def _count(self, prompt_tokens: int, completion_tokens: int) -> None:
        self.calls += 1
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens
