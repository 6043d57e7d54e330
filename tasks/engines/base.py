"""What a sampling engine is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from erpd_core.config import SamplingConfig

if TYPE_CHECKING:
    from torch import Tensor


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

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Sample from these weights (name, tensor) from now on: taken over in place, by no restart and no file."""
