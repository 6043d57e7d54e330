"""The parts of transformers that this project uses, imported without scikit-learn and scipy.

This project never calls those two. Leaving them out saves a second and 140 MB.
"""

from __future__ import annotations

import transformers.utils

_probes = {
    name: getattr(transformers.utils, name)
    for name in ("is_sklearn_available", "is_scipy_available")
}
vars(transformers.utils).update(dict.fromkeys(_probes, lambda: False))
from transformers import (  # noqa: E402
    AttentionInterface,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    PreTrainedTokenizerBase,
)
from transformers.cache_utils import DynamicLayer  # noqa: E402
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES  # noqa: E402

vars(transformers.utils).update(_probes)

__all__ = [
    "AttentionInterface",
    "AutoConfig",
    "AutoModelForCausalLM",
    "AutoTokenizer",
    "DynamicCache",
    "DynamicLayer",
    "PreTrainedTokenizerBase",
    "knows",
]


def knows(model_type: str) -> bool:
    """Whether transformers has its own code for causal language models of this type."""
    return model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
