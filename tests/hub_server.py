"""A hub on loopback for huggingface_hub.

It has the part of the HTTP API that resolves a revision and fetches files of a data set.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


class Hub:
    """Data sets by id; every change is a commit. `asked` records all requests."""

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self.branches: dict[tuple[str, str], str] = {}
        self.asked: list[str] = []
        self.url = ""

    def push(self, id: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Add a commit to `branch` with exactly these files; returns its hash."""
        known = self.commits.setdefault(id, {})
        commit = hashlib.sha1(f"{id}{branch}{len(known)}".encode()).hexdigest()
        known[commit] = files
        self.branches[id, branch] = commit
        return commit

    def files(self, id: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commit = self.branches.get((id, revision), revision)
        files = self.commits.get(id, {}).get(commit)
        return None if files is None else (commit, files)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, body: bool) -> None:
        path = unquote(self.path.partition("?")[0])
        self.hub.asked.append(f"{self.command} {path}")
        if path.startswith("/api/datasets/"):
            owner, name, *rest = path.removeprefix("/api/datasets/").split("/")
            id, revision = f"{owner}/{name}", "/".join(rest[1:]) if rest else "main"
            stored = self.hub.files(id, revision)
            if stored is None:
                return self._refuse(
                    "RevisionNotFound" if id in self.hub.commits else "RepoNotFound"
                )
            siblings = [{"rfilename": file} for file in (".gitattributes", "README.md", *stored[1])]
            return self._send(
                json.dumps({"id": id, "sha": stored[0], "siblings": siblings}).encode(),
                {"Content-Type": "application/json"},
                body,
            )
        owner, name, _, revision, *file = path.removeprefix("/datasets/").split("/")
        stored = self.hub.files(f"{owner}/{name}", revision)
        content = stored[1].get("/".join(file)) if stored else None
        if stored is None or content is None:
            return self._refuse("EntryNotFound" if stored else "RevisionNotFound")
        self._send(
            content,
            {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": stored[0]},
            body,
        )

    def _send(self, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(200)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def _refuse(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve the hub at `hub.url` until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
