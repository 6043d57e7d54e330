"""Client of a chat-completions endpoint: a cache on disk, a budget, retries with growing pauses.

The API key appears only in the header of requests.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from erpd_core.config.judge import JudgeConfig
from tasks.host.atomic_files import write_atomically

AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 529}
"""HTTP statuses of a busy or restarting server, which are retried. No other refusal is."""
LARGEST = 4 << 20
"""Bytes of a response that are read. The replies that `judge.reply_tokens` allows have about a
thousandth of that; a server that sends more is faulty.
"""
FIRST_PAUSE = 0.5
"""Pause before the first retry, seconds; it doubles with every retry."""
LONGEST_PAUSE = 60.0
"""Seconds."""


class JudgeError(RuntimeError):
    """The endpoint cannot be used. Its replies so far are cached, and not requested again."""


class BudgetSpent(Exception):
    """A limit of the budget is reached; the message is its name in `JudgeConfig`."""


@dataclass
class Budget:
    """Counts requests and tokens against the limits; shared by threads. Cached replies are free."""

    config: JudgeConfig
    calls: int = 0
    tokens: int = 0
    spent: str | None = None
    """The limit that was reached first."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _began: float = field(default_factory=time.monotonic)

    def take(self) -> None:
        """Count one request; raises BudgetSpent if a limit is reached."""
        with self._lock:
            if self.spent is None:
                seconds = time.monotonic() - self._began
                limits = {
                    "max_calls": self.calls >= self.config.max_calls,
                    "max_tokens": self.tokens >= self.config.max_tokens,
                    "max_seconds": seconds >= self.config.max_seconds,
                }
                self.spent = next((name for name, reached in limits.items() if reached), None)
            if self.spent is not None:
                raise BudgetSpent(self.spent)
            self.calls += 1

    def use(self, tokens: int) -> None:
        with self._lock:
            self.tokens += tokens

    def left(self) -> float:
        """Seconds left."""
        return self.config.max_seconds - (time.monotonic() - self._began)


class JudgeClient:
    """Requests replies, and caches them by the content of the request.

    The same messages for the same model are sent once per cache folder, whatever the endpoint.

    **Arguments:**
        cache: Folder of replies, named by a hash of the request. It holds no key, URL or header.
    """

    def __init__(self, config: JudgeConfig, cache: Path) -> None:
        self.config, self.cache = config, cache
        self.budget = Budget(config)
        self._stopped = threading.Event()
        key = key_of(config)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        # a redirect would send the key elsewhere
        self._http = httpx.Client(headers=headers, timeout=config.timeout, follow_redirects=False)

    def stop(self) -> None:
        """End the pauses of all threads, so that none retries."""
        self._stopped.set()

    def close(self) -> None:
        self._http.close()

    def ask(self, messages: list[dict[str, str]]) -> str | None:
        """The text of the reply; None if the server refuses this request (for example as too long).

        **Raises:** BudgetSpent, or JudgeError if the endpoint cannot be used.
        """
        config = self.config
        body = {
            "model": config.model,
            "messages": messages,
            "max_tokens": config.reply_tokens,
            "temperature": 0.0,
            "seed": config.seed,
        }
        name = hashlib.sha256(
            json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
        ).hexdigest()
        path = self.cache / name[:2] / f"{name}.json"
        try:
            cached: str | None = json.loads(path.read_text(encoding="utf-8"))["reply"]
            return cached
        except (FileNotFoundError, ValueError, KeyError):
            pass  # not cached, or damaged
        reply = self._request(body)
        if reply is not None:
            text = json.dumps({"model": config.model, "reply": reply})
            write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        return reply

    def _request(self, body: dict[str, Any]) -> str | None:
        trouble = ""
        for attempt in range(self.config.retries + 1):
            self.budget.take()
            wanted = 0.0
            try:
                with self._http.stream(
                    "POST", f"{self.config.endpoint}/chat/completions", json=body
                ) as response:
                    answer = self._read(response)
            except httpx.HTTPError as error:
                trouble = type(error).__name__
            else:
                if response.status_code == 200:
                    return self._text(response.request, answer)
                trouble = f"HTTP {response.status_code}"
                if response.status_code in (400, 413, 422):
                    return None
                if response.status_code not in AGAIN:
                    raise JudgeError(
                        f"the judge's endpoint answers {trouble}; check its URL, the model's name "
                        f"and the key"
                    )
                wanted = _seconds(response.headers.get("retry-after"))
            if attempt < self.config.retries:
                pause = min(
                    LONGEST_PAUSE, max(wanted, FIRST_PAUSE * 2**attempt * random.uniform(0.8, 1.2))
                )
                if self._stopped.wait(max(0.0, min(pause, self.budget.left()))):
                    break
        raise JudgeError(
            f"the judge's endpoint does not answer after {self.config.retries + 1} requests "
            f"({trouble}); see that it runs"
        )

    def _read(self, response: httpx.Response) -> bytes:
        """The first `LARGEST` bytes of the response.

        Raises httpx.ReadTimeout for a response that is still arriving after the timeout.
        """
        read, until = bytearray(), time.monotonic() + self.config.timeout
        for part in response.iter_bytes():
            read += part
            if time.monotonic() > until:
                raise httpx.ReadTimeout("the answer takes too long", request=response.request)
            if len(read) > LARGEST:
                break
        return bytes(read[:LARGEST])

    def _text(self, request: httpx.Request, body: bytes) -> str:
        """The text of a response, whose tokens are counted.

        A malformed response gives an empty text, which is no verdict.
        """
        try:
            answer = json.loads(body)
            usage = (answer.get("usage") or {}).get("total_tokens")
            content = answer["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            usage, content = None, ""
        content = content if isinstance(content, str) else ""
        # a server that reports no usage is charged by size, about four bytes a token
        self.budget.use(
            usage
            if isinstance(usage, int) and usage >= 0
            else (len(request.content) + len(body)) // 4
        )
        return content


def key_of(config: JudgeConfig) -> str | None:
    """The API key, from the environment; None if the config names no variable.

    **Raises:** ValueError if the variable is not set, or its text is not valid in a header.
    """
    if config.key_env is None:
        return None
    key = os.environ.get(config.key_env, "")
    if not key:
        raise ValueError(
            f"judge: the environment variable {config.key_env} is not set; put the key there, or "
            f"leave key_env out"
        )
    if not (key.isascii() and key.isprintable()):
        raise ValueError(
            f"judge: the environment variable {config.key_env} holds what no header may hold; put "
            f"the key alone there"
        )
    return key


def _seconds(text: str | None) -> float:
    try:
        return max(0.0, float(text or 0))
    except ValueError:
        return 0.0
