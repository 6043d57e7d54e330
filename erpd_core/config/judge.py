"""The LLM judge of an evaluation: who is asked, and what asking may cost. Never part of a
training reward.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator

from erpd_core.config.common import Config


class JudgeConfig(Config):
    """A model behind an OpenAI-compatible endpoint, asked about answers that rules call wrong or
    unparsable.

    Example: `JudgeConfig(endpoint="http://127.0.0.1:8000/v1", model="Qwen/Qwen3-8B")`
    """

    endpoint: str
    """Where `/chat/completions` is, usually ending in `/v1`. It never enters an identity."""
    model: str = Field(min_length=1)
    key_env: str | None = None
    """Name of the environment variable that holds the key; the key itself is in no file, config
    or message.
    """
    reply_tokens: PositiveInt = 2048
    """Tokens of one reply, thinking included."""
    seed: int = 0
    max_calls: PositiveInt = 20_000
    """Requests, repeated ones included. When a limit is reached the answers not judged yet keep
    the verdict of the rules.
    """
    max_tokens: PositiveInt = 20_000_000
    """Tokens read and written, as the server counts them."""
    max_seconds: PositiveFloat = 7200.0
    timeout: PositiveFloat = 120.0
    """Seconds for one request."""
    retries: NonNegativeInt = 5
    concurrency: PositiveInt = 8

    @field_validator("endpoint")
    @classmethod
    def _plain_url(cls, endpoint: str) -> str:
        try:
            url = urlsplit(endpoint)
            # a port out of range is a ValueError
            whole = url.scheme in ("http", "https") and url.hostname and url.port != 0
        except ValueError:
            whole = False
        if not whole:
            raise ValueError("endpoint: give a URL such as http://127.0.0.1:8000/v1")
        if url.username or url.password or url.query or url.fragment:
            raise ValueError(
                "endpoint: give the URL alone; a key goes into an environment variable, named by "
                "key_env"
            )
        return endpoint.rstrip("/").removesuffix("/chat/completions")

    def spec(self) -> dict[str, Any]:
        """What of it affects verdicts: the model and how it is asked, and the limits, which
        decide what is not judged at all.
        """
        fields = ("model", "reply_tokens", "seed", "max_calls", "max_tokens", "max_seconds")
        return {name: getattr(self, name) for name in fields}
