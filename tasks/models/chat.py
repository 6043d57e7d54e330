"""Prompts as tokens: through the tokenizer's chat template, with what `model.chat` adds to it,
where there is a template.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from erpd_core.config import ChatConfig
from tasks.untrusted.time_limit import time_limit

FILE = "erpd_chat.json"
"""Beside a policy's weights; like its other small files it is copied to all that is trained from
it.
"""

TEMPLATE_SECONDS = 10.0
"""A template is a program that came with the model: sandboxed by transformers, and stopped after
this time.
"""


def read_chat(folder: Path) -> ChatConfig | None:
    """What goes with the policy in `folder`; None when it takes its template as it is."""
    path = folder / FILE
    return ChatConfig.model_validate_json(path.read_bytes()) if path.exists() else None


def encode(tokenizer: Any, chat: ChatConfig | None, prompt: str) -> list[int]:
    """Token ids of a prompt, ready to be answered. Raises ValueError for a `chat` that has no
    template, and for a template that fails.
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
            f"model: its chat template cannot be used ({why}); mend it in the model's files, or "
            f"remove it"
        ) from error
    return [int(token) for token in ids]
