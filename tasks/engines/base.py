"""The interface of a sampling engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from erpd_core.config import SamplingConfig

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """One response. `tokens` ends with the stop token unless `truncated` at a length limit."""

    tokens: list[int]
    truncated: bool


Finished = Callable[[int, Sample], None]
"""Receives every response as soon as it is complete: its index in the result, the response."""


class Engine(Protocol):
    """Samples a policy.

    Results depend on the prompts, the seeds and the sampling config, not on the process that runs
    the engine. A response ends with a stop token, after `max_new_tokens`, or when the model's
    context is full. In the last two cases it is truncated.
    """

    name: str
    """Name of the engine, for the record.

    All engines sample the requested distribution, but from different random numbers.
    """

    def encode(self, prompt: str) -> list[int]:
        """Token ids of a prompt, through the chat template if the tokenizer has one."""

    def decode(self, tokens: Sequence[int]) -> str: ...

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]],
        sampling: SamplingConfig,
        finished: Finished,
    ) -> list[Sample]:
        """Sample one response per seed.

        **Arguments:**
            seeds: 64-bit seeds of every prompt. Their number is the number of responses;
                `sampling.samples` is ignored, because a resumed batch requests only the rest.
            finished: Called as `finished(index, sample)` once per response as soon as it is
                complete, in any order. `index` is its place in the result.
        **Returns:** The responses, prompt-major: those of prompt i in the order of `seeds[i]`.
        """

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Sample from these weights (name, tensor) from now on.

        They are replaced in place, without a restart or a file.
        """

    def close(self) -> None:
        """Free the engine's memory. It cannot be used afterwards."""
