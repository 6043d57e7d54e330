"""What all engines share between text and tokens: chat template, stop tokens, context limit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tasks.models.chat import encode, read_chat
from tasks.models.policy import context_length, load_tokenizer, stop_tokens


class Tokenized:
    """The tokenizer of the model in `folder`, its stop tokens and its context length in tokens."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer, self.chat = load_tokenizer(folder), read_chat(folder)
        self.stop_ids = sorted(stop_tokens(folder, self.tokenizer))
        self.context = context_length(folder)

    def encode(self, prompt: str) -> list[int]:
        return encode(self.tokenizer, self.chat, prompt)

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def check_prompts(self, prompts: Sequence[Sequence[int]]) -> None:
        """Refuse a prompt that leaves no room for a response, by a ValueError."""
        longest = max(len(prompt) for prompt in prompts)
        if longest >= self.context:
            raise ValueError(
                f"a prompt of {longest} tokens leaves no room in the model's context of "
                f"{self.context}; leave such prompts out, or"
                " use a model with a longer one"
            )
