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


Finished = Callable[[int, Sample], None]
"""Told of every response as soon as it is whole: its place in the result, and the response."""


class Engine(Protocol):
    """Samples a policy. Results depend on the prompts, the seeds and the sampling config, not on
    who runs it.

    A response ends with a stop token, after `max_new_tokens`, or where the model's context is full,
    and is truncated in the last two cases.
    """

    name: str
    """Which engine it is, for the record: it samples the distribution that was asked, as every
    other does, from other random numbers.
    """

    def encode(self, prompt: str) -> list[int]:
        """Token ids of a prompt, through the chat template when the tokenizer has one."""

    def decode(self, tokens: Sequence[int]) -> str: ...

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]],
        sampling: SamplingConfig,
        finished: Finished,
    ) -> list[Sample]:
        """One response for every seed, prompt-major: prompt i is answered once for each 64-bit seed
        of `seeds[i]`.

        `finished(index, sample)` is called once for each response as soon as it is whole, in any
        order; `index` is its place in the result. How many are asked of a prompt is told by its
        seeds alone, not by `sampling.samples`: a batch that was cut off asks for the rest.
        """

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Sample from these weights (name, tensor) from now on: taken over in place, by no
        restart and no file.
        """

    def close(self) -> None:
        """Free what it holds; it cannot be used afterwards."""
