"""Encodes prompts as tokens, through the tokenizer's chat template where there is one.

`model.chat` adds a system message and options of the template.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from erpd_core.config import ChatConfig
from tasks.untrusted.time_limit import time_limit

FILE = "erpd_chat.json"
"""File next to a policy's weights, with its chat settings.

Like the other small files, it is copied to every policy that is trained from this one.
"""

TEMPLATE_SECONDS = 10.0
"""Seconds after which a chat template is stopped.

A template is a program that came with the model; transformers runs it in a sandbox.
"""


def read_chat(folder: Path) -> ChatConfig | None:
    """Chat settings of the policy in `folder`; None if it uses its template unchanged."""
    path = folder / FILE
    return ChatConfig.model_validate_json(path.read_bytes()) if path.exists() else None


def encode(tokenizer: Any, chat: ChatConfig | None, prompt: str) -> list[int]:
    """Token ids of a prompt, ready for generation.

    **Raises:** ValueError if `chat` is given but the tokenizer has no template, or if the template
        fails.
    """
    if not getattr(tokenizer, "chat_template", None):
        if chat is not None:
            raise ValueError(
                "model.chat is given, but the model's tokenizer has no chat template; leave it out"
            )
        return [int(token) for token in tokenizer(prompt)["input_ids"]]
    messages = [{"role": "user", "content": prompt}]
    if chat is not None and chat.system is not None:
        messages.insert(0, {"role": "system", "content": chat.system})
    options = chat.options if chat is not None else {}
    try:
        with time_limit(TEMPLATE_SECONDS):
            ids = tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_dict=True, **options
            )["input_ids"]
    except (
        TemplateError,
        TimeoutError,
        ArithmeticError,
        MemoryError,
        RecursionError,
        TypeError,
    ) as error:
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(
            f"model: its chat template cannot be used ({why}); fix it in the model's files, or "
            f"remove it"
        ) from error
    return [int(token) for token in ids]
