"""What a sampling engine is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from erpd_core.config import SamplingConfig


@dataclass(frozen=True)
class Sample:
    """One response. `tokens` ends with the stop token, unless `truncated` at the length limit."""

    tokens: list[int]
    truncated: bool


class Engine(Protocol):
    """Samples a policy. Results depend on the prompts, the seeds and the sampling config, not on who runs it."""

    def encode(self, prompt: str) -> list[int]:
        """Token ids of a prompt, through the chat template when the tokenizer has one."""

    def decode(self, tokens: Sequence[int]) -> str: ...

    def sample(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], sampling: SamplingConfig, tick: Callable[[int], None]
    ) -> list[Sample]:
        """`sampling.samples` responses for each prompt, prompt-major; `seeds` has one 64-bit seed each. `tick(finished)` reports."""
