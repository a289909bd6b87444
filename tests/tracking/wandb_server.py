"""A W&B server small enough to read: GraphQL and file stream on a local port, recording what arrives.

It knows the few operations that a training run needs, keeps history lines by their offset as the real server does,
and can be told to refuse, to answer slowly, or to fall silent.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HISTORY = "wandb-history.jsonl"
SUMMARY = "wandb-summary.json"
EVENTS = "wandb-events.jsonl"


@dataclass
class ServerRun:
    """One run as the server knows it."""

    name: str
    fields: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    lines: dict[int, str] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    system_metrics: int = 0
    exit_code: int | None = None
    state: str = "running"
    begun: int = 0

    @property
    def history(self) -> list[dict[str, Any]]:
        return [json.loads(self.lines[offset]) for offset in sorted(self.lines)]

    @property
    def steps(self) -> list[int]:
        return [row["_step"] for row in self.history]


class WandbServer:
    """Runs, artifacts and requests that arrived; `fail` decides per request what goes wrong."""

    def __init__(self) -> None:
        self.runs: dict[str, ServerRun] = {}
        self.artifacts: dict[str, dict[str, Any]] = {}
        self.blobs: dict[str, bytes] = {}
        self.used: list[tuple[str, str]] = []
        self.views: list[dict[str, Any]] = []
        self.requests: list[str] = []
        self.fail: Callable[[str], int | None] = lambda _: None
        self.delay_s = 0.0
        self.url = ""

    def graphql(self, name: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Answer one GraphQL operation."""
        answer = getattr(self, f"on_{name}", None)
        return answer(variables) if answer else {}

    def on_ServerInfo(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def on_Viewer(self, _: dict[str, Any]) -> dict[str, Any]:
        teams = {"edges": [{"node": {"id": "T", "name": "someone"}}]}
        viewer = {"id": "V", "username": "someone", "entity": "someone", "email": "", "flags": "{}", "teams": teams}
        return {"viewer": {**viewer, "name": "someone", "admin": False, "apiKeys": {"edges": []}}}

    def on_RunResumeStatus(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(variables["name"])
        entity = {"id": "E", "name": "someone"}
        if run is None:
            return {"model": {"id": "P", "name": variables["project"], "entity": entity, "bucket": None}}
        bucket = {
            "id": f"id-{run.name}",
            "name": run.name,
            "displayName": run.fields.get("displayName"),
            "summaryMetrics": json.dumps(run.summary),
            "historyLineCount": len(run.lines),
            "eventsLineCount": 0,
            "logLineCount": 0,
            "historyTail": json.dumps([run.lines[offset] for offset in sorted(run.lines)][-1:]),
            "eventsTail": "[]",
            "config": json.dumps(run.config),
            "tags": run.fields.get("tags") or [],
            "notes": run.fields.get("notes"),
            "wandbConfig": json.dumps({"t": 1}),
        }
        return {"model": {"id": "P", "name": variables["project"], "entity": entity, "bucket": bucket}}

    def on_UpsertBucket(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables.get("name") or str(variables.get("id", "")).removeprefix("id-")
        run = self.runs.setdefault(name, ServerRun(name))
        run.begun += 1
        run.state = "running"
        run.fields.update({key: value for key, value in variables.items() if value is not None})
        if variables.get("config"):
            run.config = json.loads(variables["config"])
        project = {"id": "P", "name": variables.get("project"), "entity": {"id": "E", "name": "someone"}}
        bucket = {
            "id": f"id-{name}",
            "name": name,
            "displayName": variables.get("displayName"),
            "description": "",
            "config": json.dumps(run.config),
            "sweepName": None,
            "historyLineCount": len(run.lines),
            "project": project,
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": run.begun == 1}}

    def on_GetDefaultEntity(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"viewer": {"id": "V", "entity": "someone"}}

    def on_Run(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(variables["name"])
        if run is None:
            return {"project": {"run": None}}
        known = {"id": f"id-{run.name}", "name": run.name, "state": run.state, "historyLineCount": len(run.lines)}
        return {"project": {"run": {"projectId": "1", "tags": [], **known}}}

    def on_ArtifactType(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"artifact": None}}

    def on_CreateRunFiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        names = variables["files"]
        files = [{"name": file, "uploadUrl": f"{self.url}/put/{variables['run']}/{file}"} for file in names]
        return {"createRunFiles": {"runID": f"id-{variables['run']}", "uploadHeaders": [], "files": files}}

    def on_GetProjects(self, _: dict[str, Any]) -> dict[str, Any]:
        node = {"id": "P", "name": "raypo", "entityName": "someone", "createdAt": "2026-01-01"}
        node |= {"isBenchmark": False, "user": None}
        pages = {"endCursor": None, "hasNextPage": False}
        return {"models": {"edges": [{"node": node, "cursor": "c"}], "pageInfo": pages}}

    def on_ProjectInternalId(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"internalId": "1"}}

    def on_upsertView(self, variables: dict[str, Any]) -> dict[str, Any]:
        self.views.append({**variables, "spec": json.loads(variables["spec"])})
        return {"upsertView": {"view": {"id": f"V{len(self.views)}", "name": variables["name"]}, "inserted": True}}

    on_UpsertView2 = on_upsertView

    def on_CreateArtifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        """A version is known by its digest; one that is there already is not asked for again."""
        asked = variables["input"]
        same = [name for name, known in self.artifacts.items() if known["digest"] == asked["digest"]]
        name = next((n for n in same if n.startswith(f"artifact-{asked['artifactCollectionName']}.")), None)
        if name is None:
            name = f"artifact-{asked['artifactCollectionName']}.{asked['digest'][:6]}"
            self.artifacts[name] = asked
        state = "COMMITTED" if self.artifacts[name].get("committed") else "PENDING"
        sequence = {"latestArtifact": None}
        return {"createArtifact": {"artifact": {"id": name, "state": state, "artifactSequence": sequence}}}

    def on_UseArtifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        asked = variables.get("input", variables)
        self.used.append((asked["runName"], asked["artifactID"]))
        return {"useArtifact": {"artifact": {"id": asked["artifactID"]}}}

    def on_CreateArtifactManifest(self, variables: dict[str, Any]) -> dict[str, Any]:
        file = {"id": "F", "name": variables["name"], "displayName": variables["name"]}
        upload = {"uploadUrl": f"{self.url}/blob/{variables['artifactID']}/manifest", "uploadHeaders": []}
        return {
            "createArtifactManifest": {"artifactManifest": {"id": variables["artifactID"], "file": {**file, **upload}}}
        }

    def on_CreateArtifactFiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        nodes = [
            {
                "id": "F",
                "name": spec["name"],
                "displayName": spec["name"],
                "storagePath": None,
                "uploadUrl": f"{self.url}/blob/{spec['artifactID']}/{spec['name']}",
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": spec["artifactID"]},
            }
            for spec in variables["input"]["artifactFiles"]
        ]
        return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}

    def on_CommitArtifact(self, variables: dict[str, Any]) -> dict[str, Any]:
        self.artifacts[variables["artifactID"]]["committed"] = True
        return {"commitArtifact": {"artifact": {"id": variables["artifactID"], "digest": "d"}}}

    def stream(self, name: str, body: dict[str, Any]) -> None:
        """Take one file stream request: lines of the history at their offset, the summary, the end of the run."""
        run = self.runs.setdefault(name, ServerRun(name))
        for file, chunk in (body.get("files") or {}).items():
            if file == HISTORY:
                run.lines.update({chunk["offset"] + index: line for index, line in enumerate(chunk["content"])})
            elif file == SUMMARY:
                run.summary = json.loads(chunk["content"][-1])
            elif file == EVENTS:
                run.system_metrics += len(chunk["content"])
        if body.get("complete"):
            run.exit_code = body.get("exitcode")
            run.state = "failed" if run.exit_code else "finished"


def _handler(server: WandbServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def reply(self, body: Any, status: int = 200) -> None:
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def take(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked = json.loads(body) if self.path == "/graphql" else {}
            named = re.search(r"(?:query|mutation)\s+(\w+)", asked.get("query", ""))
            operation = named.group(1) if named else self.path
            server.requests.append(operation)
            time.sleep(server.delay_s)
            status = server.fail(operation)
            if status is not None:
                self.reply({"error": "told to fail"}, status)
            elif self.path == "/graphql":
                self.reply({"data": server.graphql(operation, asked.get("variables") or {})})
            else:
                self.other(body)

        def other(self, body: bytes) -> None:
            parts = self.path.strip("/").split("/")
            if parts[-1] == "file_stream":
                server.stream(parts[3], json.loads(body))
            elif parts[0] == "put":
                server.runs[parts[1]].files["/".join(parts[2:])] = body
            elif parts[0] == "blob":
                server.blobs["/".join(parts[1:])] = body
            self.reply({"limits": {}, "exitcode": None})

        do_POST = do_PUT = do_GET = take

    return Handler


class QuietServer(ThreadingHTTPServer):
    """Clients that hang up are part of the tests."""

    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        pass


@contextmanager
def wandb_server() -> Iterator[WandbServer]:
    """Serve on a free local port until the block ends."""
    server = WandbServer()
    http = QuietServer(("127.0.0.1", 0), _handler(server))
    server.url = f"http://127.0.0.1:{http.server_address[1]}"
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
