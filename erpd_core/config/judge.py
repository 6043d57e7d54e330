"""Config of the LLM judge of an evaluation. A judge is never part of a training reward."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator

from erpd_core.config.common import Config


class JudgeConfig(Config):
    """A model behind an OpenAI-compatible endpoint that judges answers.

    It sees only answers that the rules call wrong or unparsable.

    **Example:** `JudgeConfig(endpoint="http://127.0.0.1:8000/v1", model="Qwen/Qwen3-8B")`
    """

    endpoint: str
    """URL below which `/chat/completions` is, usually ending in `/v1`. It never enters an identity.
    """
    model: str = Field(min_length=1)
    """Name of the model, as the endpoint knows it."""
    key_env: str | None = None
    """Name of the environment variable that holds the API key. The key itself is in no file, config
    or message.
    """
    reply_tokens: PositiveInt = 2048
    """Maximum tokens of one reply, thinking included."""
    seed: int = 0
    """Seed that is sent with every request."""
    max_calls: PositiveInt = 20_000
    """Maximum number of requests, repeated ones included. When a limit is reached, the answers not
    judged yet keep the verdict of the rules.
    """
    max_tokens: PositiveInt = 20_000_000
    """Maximum tokens read and written, as the server counts them."""
    max_seconds: PositiveFloat = 7200.0
    """Maximum seconds in total."""
    timeout: PositiveFloat = 120.0
    """Seconds after which one request is given up."""
    retries: NonNegativeInt = 5
    """Further attempts after a request that failed."""
    concurrency: PositiveInt = 8
    """Requests in flight at once."""

    @field_validator("endpoint")
    @classmethod
    def _plain_url(cls, endpoint: str) -> str:
        try:
            url = urlsplit(endpoint)
            # url.port raises ValueError if it is out of range
            complete = url.scheme in ("http", "https") and url.hostname and url.port != 0
        except ValueError:
            complete = False
        if not complete:
            raise ValueError("endpoint: give a URL such as http://127.0.0.1:8000/v1")
        if url.username or url.password or url.query or url.fragment:
            raise ValueError(
                "endpoint: give the URL alone; a key goes into an environment variable, named by "
                "key_env"
            )
        return endpoint.rstrip("/").removesuffix("/chat/completions")

    def spec(self) -> dict[str, Any]:
        """The settings that affect verdicts: the model, its request, and the limits.

        The limits decide which answers are not judged at all.
        """
        fields = ("model", "reply_tokens", "seed", "max_calls", "max_tokens", "max_seconds")
        return {name: getattr(self, name) for name in fields}
