"""Asking an OpenAI-compatible server: retries with jitter, and secrets that stay secret.

The key comes from the environment when the first question is asked, is kept in no object of this package, and is struck
from every message.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import openai
from openai.types.chat import ChatCompletion
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from raypo.errors import JudgeUnavailable
from raypo.evaluation.judges.spending import Spending
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


class Rejected(Unanswered):
    """One question that would get no answer later either: too long, or of a form that the server does not take."""


@dataclass(frozen=True)
class Patience:
    """Attempts at one question, seconds for each, and the longest wait between two of them."""

    attempts: int = 6
    timeout_s: float = 60
    wait_s: float = 30


@dataclass(frozen=True)
class Address:
    """Where a server is (None: OPENAI_BASE_URL, else OpenAI) and which environment variable holds its key."""

    base_url: str | None = None
    key_variable: str = "OPENAI_API_KEY"

    def open(self, timeout_s: float) -> openai.OpenAI:
        """A client for this server; raises JudgeUnavailable where neither address nor key is given."""
        url = self.base_url or os.environ.get("OPENAI_BASE_URL")
        key = os.environ.get(self.key_variable)
        if not key and not url:
            raise JudgeUnavailable(
                f"judge llm: no server is named; set {self.key_variable}, or OPENAI_BASE_URL for a server of your own"
            )
        return openai.OpenAI(base_url=url, api_key=key or "none", timeout=timeout_s, max_retries=0)

    def strike(self, text: str) -> str:
        """The text without the key or any part of it that a server may echo."""
        key = os.environ.get(self.key_variable)
        if not key:
            return text
        # Servers like to echo a key with stars in its middle.
        return re.sub(re.escape(key[:4]) + r"\S*", "***", text.replace(key, "***"))


class ChatServer:
    """A chat model behind an OpenAI-compatible server; may be asked from many threads at once."""

    def __init__(self, model: str, address: Address, spending: Spending, patience: Patience) -> None:
        self.model, self.address, self.spending, self.patience = model, address, spending, patience
        self._client: openai.OpenAI | None = None
        self._failures = 0
        self._lock = threading.Lock()

    def ask(self, messages: list[dict[str, str]], decoding: Mapping[str, Any]) -> Reply:
        """The server's reply; raises Unanswered for one question in vain, JudgeUnavailable where all would be."""
        self.spending.check()
        retrying = Retrying(
            retry=retry_if_exception_type(RETRIED),
            wait=wait_random_exponential(multiplier=self.patience.wait_s / 30, max=self.patience.wait_s),
            stop=stop_after_attempt(self.patience.attempts),
            reraise=True,
        )
        try:
            reply = retrying(self._once, messages, decoding)
        except REFUSED as error:
            raise JudgeUnavailable(f"judge llm: {self.model}: {self._plain(error)}") from None
        except RETRIED as error:
            raise self._in_vain(Unanswered(self._plain(error))) from None
        except openai.OpenAIError as error:
            raise self._in_vain(Rejected(self._plain(error))) from None
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
                self._client = self.address.open(self.patience.timeout_s)
            return self._client

    def _in_vain(self, reason: Unanswered) -> Exception:
        with self._lock:
            self._failures += 1
            if self._failures < IN_A_ROW:
                return reason
            self._failures = 0
        told = f"{IN_A_ROW} questions in a row got no answer, the last: {reason}"
        return JudgeUnavailable(f"judge llm: {self.model}: {told}")

    def _plain(self, error: Exception) -> str:
        """What went wrong, in one line without secrets."""
        if isinstance(error, openai.APITimeoutError):
            return "the server did not answer in time"
        if isinstance(error, json.JSONDecodeError):
            return "the reply is no JSON"
        text = self.address.strike(" ".join(str(error).split()))
        return f"{type(error).__name__}: {text[:300]}"
