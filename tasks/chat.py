"""Prompts as tokens: through the tokenizer's chat template, with what `model.chat` adds to it, where there is a template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from erpd_core.config import ChatConfig

FILE = "erpd_chat.json"
"""Beside a policy's weights; like its other small files it is copied to all that is trained from it."""


def read_chat(folder: Path) -> ChatConfig | None:
    """What goes with the policy in `folder`; None when it takes its template as it is."""
    path = folder / FILE
    return ChatConfig.model_validate_json(path.read_bytes()) if path.exists() else None


def encode(tokenizer: Any, chat: ChatConfig | None, prompt: str) -> list[int]:
    """Token ids of a prompt, ready to be answered. Raises ValueError for a `chat` that has no template to go through."""
    if not getattr(tokenizer, "chat_template", None):
        if chat is not None:
            raise ValueError("model.chat is given, but the model's tokenizer has no chat template; leave it out")
        return [int(token) for token in tokenizer(prompt)["input_ids"]]
    messages = [{"role": "user", "content": prompt}]
    if chat is not None and chat.system is not None:
        messages.insert(0, {"role": "system", "content": chat.system})
    options = chat.options if chat is not None else {}
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, **options)["input_ids"]
    return [int(token) for token in ids]
