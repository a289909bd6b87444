"""Asking an OpenAI-compatible server: retries, a limit on concurrency, counters, a budget, and replies on file.

The address and the key come from OPENAI_BASE_URL and OPENAI_API_KEY when the first question is asked. The key is kept
in no object of this package and is struck from every message.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import openai
from openai.types.chat import ChatCompletion
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from raypo.errors import JudgeError
from raypo.evaluation.judges.cache import SharedLines, content_key
from raypo.evaluation.judges.templates import Reply

RETRIED = (
    openai.RateLimitError,
    openai.APITimeoutError,
    openai.APIConnectionError,
    openai.InternalServerError,
    json.JSONDecodeError,
)
REFUSED = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)
IN_A_ROW = 10
"""Questions in a row that may fail before the server counts as down."""


class Unanswered(Exception):
    """One question got no answer; `str()` says why, without secrets."""


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
        """Raise JudgeError once the budget is spent; calls already under way still end."""
        with self._lock:
            self._read_on()
            if self.budget.limit is not None and self.cost >= self.budget.limit:
                raise JudgeError(
                    f"judge llm: the budget of {self.budget.limit:g} is spent ({self.cost:.4g} in {self.calls} calls); "
                    "raise it, or judge fewer prompts"
                )

    def _read_on(self) -> None:
        for line in () if self._lines is None else self._lines.new():
            self._count(*line)

    def _count(self, prompt_tokens: int, completion_tokens: int) -> None:
        self.calls += 1
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens


class ChatServer:
    """A chat model behind an OpenAI-compatible server; may be asked from many threads at once."""

    def __init__(
        self, model: str, spending: Spending, *, attempts: int = 6, timeout_s: float = 60, wait_s: float = 30
    ) -> None:
        self.model, self.spending = model, spending
        self.attempts, self.timeout_s, self.wait_s = attempts, timeout_s, wait_s
        self._client: openai.OpenAI | None = None
        self._failures = 0
        self._lock = threading.Lock()

    def ask(self, messages: list[dict[str, str]], decoding: Mapping[str, Any]) -> Reply:
        """The server's reply; raises Unanswered for one question in vain, JudgeError where more would be in vain."""
        self.spending.check()
        retrying = Retrying(
            retry=retry_if_exception_type(RETRIED),
            wait=wait_random_exponential(multiplier=self.wait_s / 30, max=self.wait_s),
            stop=stop_after_attempt(self.attempts),
            reraise=True,
        )
        try:
            reply = retrying(self._once, messages, decoding)
        except REFUSED as error:
            raise JudgeError(f"judge llm: {self.model}: {_plain(error)}") from None
        except (openai.OpenAIError, json.JSONDecodeError) as error:
            raise self._in_vain(_plain(error)) from None
        self._failures = 0
        self.spending.add(reply)
        return reply

    def _once(self, messages: list[dict[str, str]], decoding: Mapping[str, Any]) -> Reply:
        said: Any = messages
        answer = self._open().chat.completions.create(model=self.model, messages=said, **decoding)
        if not isinstance(answer, ChatCompletion) or not answer.choices:
            raise openai.OpenAIError("the reply is no chat completion")
        choice, usage = answer.choices[0], answer.usage
        first = choice.logprobs.content[0] if choice.logprobs and choice.logprobs.content else None
        return Reply(
            text=choice.message.content or "",
            first_token={top.token: top.logprob for top in first.top_logprobs} if first else {},
            prompt_tokens=usage.prompt_tokens if usage else 0,
            completion_tokens=usage.completion_tokens if usage else 0,
        )

    def _open(self) -> openai.OpenAI:
        with self._lock:
            if self._client is None:
                key = os.environ.get("OPENAI_API_KEY")
                if not key and not os.environ.get("OPENAI_BASE_URL"):
                    raise JudgeError(
                        "judge llm: no server is named; set OPENAI_API_KEY, or OPENAI_BASE_URL for a server of your own"
                    )
                self._client = openai.OpenAI(api_key=key or "none", timeout=self.timeout_s, max_retries=0)
            return self._client

    def _in_vain(self, reason: str) -> Exception:
        with self._lock:
            self._failures += 1
            if self._failures < IN_A_ROW:
                return Unanswered(reason)
        return JudgeError(f"judge llm: {self.model}: {IN_A_ROW} questions in a row got no answer, the last: {reason}")


class Recorded:
    """Replies on file: answers from a file alone, or from a server while writing one."""

    def __init__(self, path: Path, server: ChatServer | None = None, model: str = "") -> None:
        self.path, self.server, self.model = Path(path), server, model
        self._lock = threading.Lock()
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self._replies = {line["key"]: Reply(**line["reply"]) for line in map(json.loads, lines)}
        if server is None and not self._replies:
            raise JudgeError(f"{path}: no recorded replies here; record them with a server first")

    def ask(self, messages: list[dict[str, str]], decoding: Mapping[str, Any]) -> Reply:
        """The recorded reply, else the server's; raises Unanswered where there is neither."""
        key = content_key({"model": self.model}, [messages, decoding])
        if key in self._replies:
            return self._replies[key]
        if self.server is None:
            raise Unanswered(f"{self.path.name} holds no reply to this question")
        reply = self.server.ask(messages, decoding)
        with self._lock, self.path.open("a") as file:
            file.write(json.dumps({"key": key, "reply": asdict(reply)}) + "\n")
        self._replies[key] = reply
        return reply


def _plain(error: Exception) -> str:
    """What went wrong in one line, without the key or any part of it that a server may echo."""
    if isinstance(error, openai.APITimeoutError):
        return "the server did not answer in time"
    if isinstance(error, json.JSONDecodeError):
        return "the reply is no JSON"
    text = " ".join(str(error).split())[:300]
    if key := os.environ.get("OPENAI_API_KEY"):
        text = text.replace(key, "***")
        # Servers like to echo a key with stars in its middle.
        text = re.sub(re.escape(key[:4]) + r"\S*", "***", text)
    return f"{type(error).__name__}: {text}"
