"""A judge that is a language model behind an OpenAI-compatible server (OpenAI, vLLM, SGLang and others)."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from raypo.artifacts import hash_folder
from raypo.errors import JudgeError
from raypo.evaluation.judges.cache import MarkCache
from raypo.evaluation.judges.chat import Address, ChatServer, Patience, Rejected, Unanswered
from raypo.evaluation.judges.marks import Answer, Mark, Question
from raypo.evaluation.judges.replay import Recorded
from raypo.evaluation.judges.spending import Budget, Spending
from raypo.evaluation.judges.templates import TEMPLATES, Reply, Template
from raypo.evaluation.judges.verdicts import MAX_FAILED, PairJudge, RatingJudge, win_tie_loss
from raypo.evaluation.prompts import as_text


class Asked(Protocol):
    """Whoever replies: a server, or replies on file."""

    def ask(self, messages: list[dict[str, str]], decoding: Mapping[str, Any]) -> Reply: ...


def llm(
    model: str,
    template: str,
    *,
    base_url: str | None = None,
    key_variable: str = "OPENAI_API_KEY",
    decoding: Mapping[str, Any] | None = None,
    revision: str = "",
    concurrency: int = 8,
    attempts: int = 6,
    timeout_s: float = 60,
    wait_s: float = 30,
    price_per_million_tokens: tuple[float, float] = (0.0, 0.0),
    max_cost: float | None = None,
    spending_folder: Path | None = None,
    replay: Path | None = None,
    record: Path | None = None,
    cache: MarkCache | None = None,
    max_failed: float = MAX_FAILED,
) -> PairJudge | RatingJudge:
    """A judge by a chat model and one of `TEMPLATES`; nothing is asked or opened before the first comparison.

    The key is read from the environment variable that `key_variable` names, the address from OPENAI_BASE_URL where
    `base_url` is None. `decoding` replaces the template's own settings; `revision` tells states of a model apart that
    has one name. Spending stops at `max_cost`, in the currency of the prices (prompt, completion), over all processes
    that share `spending_folder`. With `replay` only that file answers; with `record` every reply is kept in a file that
    `replay` reads. Raises JudgeError for an unknown template and for a limit without prices.
    """
    if template not in TEMPLATES:
        raise JudgeError(f"judge llm: no template {template!r}; allowed: {', '.join(TEMPLATES)}")
    if max_cost is not None and not any(price_per_million_tokens):
        raise JudgeError("judge llm: max_cost without price_per_million_tokens never stops anything; give both prices")
    asked = TEMPLATES[template]
    server = ChatServer(
        model,
        Address(base_url, key_variable),
        Spending(Budget(*price_per_million_tokens, max_cost), spending_folder),
        Patience(attempts, timeout_s, wait_s),
    )
    source: Asked = server
    replies = ""
    if replay is not None:
        source, replies = Recorded(replay, model=model), hash_folder(replay)
    elif record is not None:
        source = Recorded(record, server, model)
    sent = asked.decoding if decoding is None else decoding
    who = ChatJudge(source, model, asked, sent, revision, concurrency, server, replies)
    if asked.single:
        return RatingJudge(who, partial(win_tie_loss, tie=asked.tie), cache, max_failed)
    return PairJudge(who, cache, max_failed)


@dataclass(frozen=True)
class ChatJudge:
    """A chat model that rates or compares, by its template; `server.spending` counts what it cost."""

    source: Asked
    model: str
    template: Template
    decoding: Mapping[str, Any]
    revision: str
    concurrency: int
    server: ChatServer
    replies: str = ""
    """Hash of the file that answers in place of the server."""

    @property
    def name(self) -> str:
        return f"llm:{self.model}{'@' if self.revision else ''}{self.revision}/{self.template.name}"

    @property
    def identity(self) -> Mapping[str, Any]:
        asked = {"template": self.template.revision, "decoding": dict(self.decoding)}
        asked |= {"replies": self.replies} if self.replies else {}
        return {"judge": "llm", "model": self.model, "revision": self.revision, **asked}

    def rate(self, answers: Sequence[Answer]) -> Iterable[Mark]:
        ask = self.template.messages
        return self._ask([partial(ask, prompt=as_text(a.prompt), answer=a.text) for a in answers])

    def compare(self, questions: Sequence[Question]) -> Iterable[Mark]:
        ask = self.template.messages
        return self._ask([partial(ask, prompt=as_text(q.prompt), first=q.first, second=q.second) for q in questions])

    def _ask(self, questions: Sequence[Callable[[], list[dict[str, str]]]]) -> Iterator[Mark]:
        """Marks in the order of the questions, asked side by side; a JudgeError ends the asking everywhere."""
        over = threading.Event()

        def mark(question: Callable[[], list[dict[str, str]]]) -> Mark:
            if over.is_set():
                return Mark(math.nan, "not asked any more")
            try:
                return self._mark(question)
            except JudgeError:
                over.set()
                raise

        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="judge")
        try:
            yield from pool.map(mark, questions)
        finally:
            over.set()
            pool.shutdown(cancel_futures=True)

    def _mark(self, question: Callable[[], list[dict[str, str]]]) -> Mark:
        try:
            reply = self.source.ask(question(), self.decoding)
        except Unanswered as reason:
            return Mark(math.nan, f"no answer: {reason}", unanswered=not isinstance(reason, Rejected))
        value = self.template.read(reply)
        if value is None:
            return Mark(math.nan, f"the reply cannot be read as a {self.template.name} verdict: {reply.text[:80]!r}")
        return Mark(value)
