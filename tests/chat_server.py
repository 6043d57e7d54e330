"""A small server of OpenAI's chat-completions format with scripted judges, run as a process:
`python chat_server.py POLICY KEY`.

It prints its port, then serves until it is killed. `GET /log` returns the requests it received and
the largest number at one time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


def quoted(prompt: str) -> tuple[str, str]:
    """The two answers that the prompt quotes as JSON strings, after the second and third fence."""
    lines = prompt.splitlines()
    starts = [
        index
        for index, line in enumerate(lines)
        if line.endswith((" first answer", " second answer"))
    ]
    first, second = (json.loads(lines[index + 1]) for index in starts)
    return first, second


def same_letters(first: str, second: str) -> bool:
    """Whether two answers have the same letters and digits, in any order."""
    return sorted(filter(str.isalnum, first.lower())) == sorted(filter(str.isalnum, second.lower()))


class Script:
    """A scripted judge: its policy and a log of its requests."""

    def __init__(self, policy: str, key: str) -> None:
        self.policy, self.key = policy, key
        self.lock = threading.Lock()
        self.bodies: list[dict[str, Any]] = []
        self.now = self.most = 0

    def reply(self, body: dict[str, Any], count: int) -> tuple[int, dict[str, str], str]:
        """Returns (status, headers, content of the message or error)."""
        first, second = quoted(body["messages"][0]["content"])
        verdict = f"VERDICT: {'SAME' if same_letters(first, second) else 'DIFFERENT'}"
        if self.policy == "busy" and count % 3:
            return 429, {"Retry-After": "0.1"}, "slow down"
        if self.policy == "broken" and count % 2:
            return 503, {}, "starting"
        if self.policy == "slow":
            time.sleep(0.3)
        if self.policy == "stuck":
            time.sleep(30)
        status = {"refusing": 400, "forbidden": 401, "down": 500}.get(self.policy, 200)
        gullible = "VERDICT: SAME" if "VERDICT: SAME" in first + second else verdict
        content = {
            "yes": "VERDICT: SAME",
            "no": "VERDICT: DIFFERENT",
            "first_short": "VERDICT: SAME" if len(first) < len(second) else "VERDICT: DIFFERENT",
            "garbage": "Both of them look fine to me. VERDICT: SAME, I would say.",
            "thinking": f"<think>Maybe VERDICT: DIFFERENT?</think>\n\n{verdict}\n",
            "echo": f"{first}\n{second}",
            "endless": f"{verdict}\n" * 400_000,
            "gullible": gullible,
        }.get(self.policy, verdict)
        return status, {}, content


def handler(script: Script) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _send(self, status: int, headers: dict[str, str], body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            for name, value in (
                headers | {"Content-Type": "application/json", "Content-Length": str(len(data))}
            ).items():
                self.send_header(name, value)
            self.end_headers()
            if script.policy == "dripping":
                for index in range(len(data)):
                    self.wfile.write(data[index : index + 1])
                    self.wfile.flush()
                    time.sleep(0.2)
            self.wfile.write(data)

        def do_GET(self) -> None:
            self._send(200, {}, {"bodies": script.bodies, "most": script.most})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path != "/v1/chat/completions":
                return self._send(404, {}, {"error": {"message": "no such path"}})
            if script.key and self.headers.get("Authorization") != f"Bearer {script.key}":
                return self._send(401, {}, {"error": {"message": "wrong key"}})
            with script.lock:
                script.bodies.append(body)
                count = len(script.bodies)
                script.now += 1
                script.most = max(script.most, script.now)
            status, headers, content = script.reply(body, count)
            with script.lock:
                script.now -= 1
            if status != 200:
                return self._send(status, headers, {"error": {"message": content}})
            message = {"role": "assistant", "content": content}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 300, "completion_tokens": 10, "total_tokens": 310}
            self._send(
                200,
                {},
                {
                    "id": "x",
                    "object": "chat.completion",
                    "model": body["model"],
                    "choices": [choice],
                    "usage": usage,
                },
            )

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


class Server:
    """A test's client of a running server."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}/v1"

    def log(self) -> dict[str, Any]:
        with urllib.request.urlopen(self.endpoint.removesuffix("/v1") + "/log") as answer:
            log: dict[str, Any] = json.loads(answer.read())
            return log

    @property
    def prompts(self) -> list[str]:
        return [body["messages"][0]["content"] for body in self.log()["bodies"]]


@contextmanager
def serving(policy: str, key: str = "") -> Iterator[Server]:
    """Run the server in a separate process on a free loopback port until the block ends."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__)), policy, key], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield Server(int(process.stdout.readline()))
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(Script(sys.argv[1], sys.argv[2])))
    print(server.server_port, flush=True)
    server.serve_forever()
