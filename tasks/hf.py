"""What this project uses of transformers, imported without scikit-learn: a second and 100 MB for what only assisted decoding draws."""

from __future__ import annotations

import transformers.utils

_told = transformers.utils.is_sklearn_available
transformers.utils.is_sklearn_available = lambda: False
from transformers import (  # noqa: E402
    AttentionInterface,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    PreTrainedTokenizerBase,
)
from transformers.cache_utils import DynamicLayer  # noqa: E402

transformers.utils.is_sklearn_available = _told

__all__ = [
    "AttentionInterface",
    "AutoConfig",
    "AutoModelForCausalLM",
    "AutoTokenizer",
    "DynamicCache",
    "DynamicLayer",
    "PreTrainedTokenizerBase",
]
