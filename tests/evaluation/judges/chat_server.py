"""A real HTTP server that speaks as much of the chat-completions protocol as a judge needs."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-test-0123456789abcdef"


@dataclass(frozen=True)
class Answered:
    """One HTTP answer: status, body (text, or a mapping sent as JSON), seconds to wait first."""

    status: int = 200
    body: Any = ""
    after_s: float = 0.0


def said(text: str, first_token: dict[str, float] | None = None, tokens: tuple[int, int] = (100, 10)) -> Answered:
    """A well-formed chat completion that says `text`."""
    logprobs = None
    if first_token is not None:
        top = [{"token": t, "logprob": p, "bytes": None} for t, p in first_token.items()]
        logprobs = {"content": [{"token": text, "logprob": -0.1, "bytes": None, "top_logprobs": top}], "refusal": None}
    message = {"role": "assistant", "content": text}
    return Answered(
        body={
            "id": "c", "object": "chat.completion", "created": 0, "model": "judge",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": logprobs}],
            "usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)},
        }
    )  # fmt: skip


def failed(status: int, message: str) -> Answered:
    return Answered(status, {"error": {"message": message, "type": "error", "code": None}})


@dataclass
class ChatService:
    """Answers each request by `reply(request body)`; keeps requests, their headers and how many ran at once."""

    reply: Callable[[dict[str, Any]], Answered] = lambda _: said("Comparison: ok.\nMore helpful: A")
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    at_once: int = 0
    _now: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        service = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_POST(self) -> None:
                service.serve(self)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._lock:
            self.requests.append(body)
            self.keys.append(handler.headers.get("Authorization", ""))
            self._now += 1
            self.at_once = max(self.at_once, self._now)
        answer = self.reply(body)
        time.sleep(answer.after_s)
        data = (answer.body if isinstance(answer.body, str) else json.dumps(answer.body)).encode()
        with self._lock:
            self._now -= 1
        try:
            handler.send_response(answer.status)
            handler.send_header("Content-Type", "application/json")
            handler.send_header("Content-Length", str(len(data)))
            handler.end_headers()
            handler.wfile.write(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client gave up waiting, as some tests want it to

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
