"""Estimates of the memory of one device, in bytes."""

from __future__ import annotations

from erpd_core.config import RuntimeConfig
from erpd_core.estimates.shape import ModelShape
from erpd_core.estimates.work import Batch

HEAD_TOKENS = {"train": 512, "score": 128}
"""Response tokens whose logits exist at once: `CHUNK` and `FORWARD_CHUNK` of `erpd_core.logprobs`,
to which a test compares them.
"""
HEAD_COPIES = 3
"""Float32 tensors of the size of the logits: logits, their exponentials and a product of both."""

LIBRARIES = 0.6e9
"""Bytes of a process that has imported torch and transformers."""

Parts = dict[str, float]
"""Name of a part -> bytes."""


def width(dtype: str) -> int:
    """Bytes of one number."""
    return {"float32": 4, "bfloat16": 2}[dtype]


def training_memory(shape: ModelShape, runtime: RuntimeConfig, batch: Batch, shards: int) -> Parts:
    """Bytes on each of `shards` devices that train one model.

    An upper estimate for `tasks.training.off_policy`.
    """
    # several trainers keep float32 weights, whatever the dtype of their arithmetic
    own = 4 if shards > 1 else width(runtime.dtype)
    states = {"weights": own, "gradients": own, "AdamW's moments": 2 * own}
    parts: Parts = (
        {}
        if runtime.offload
        else {name: bytes_ * shape.parameters / shards for name, bytes_ in states.items()}
    )
    root = shape.parameters - shape.block_weights  # embeddings and head
    # gathered are a block, the next one, and the root, which stays from a micro-batch's forward to
    # the end of its backward (docs/sharding.md)
    if shards > 1:
        parts["gathered weights"] = width(runtime.dtype) * (
            2 * shape.block_weights / shape.layers + root
        )
    tokens = micro_tokens(runtime, batch)
    layer = activation_bytes(shape, runtime.dtype) * tokens
    kept = shape.hidden * width(runtime.dtype) * tokens
    parts["activations"] = (
        shape.layers * kept + layer if runtime.recompute else shape.layers * layer
    )
    parts |= _masks(runtime, batch, tokens)
    # the gradient of the head exists as a whole before it is sharded
    parts["head"] = _head(shape, "train") + own * (root if shards > 1 else shape.head_weights)
    return parts | _libraries(runtime)


def scoring_memory(shape: ModelShape, runtime: RuntimeConfig, batch: Batch) -> Parts:
    """Bytes on one device that scores: the activations of one layer at a time."""
    return (
        {
            "weights": width(runtime.dtype) * shape.parameters,
            "activations": width(runtime.dtype)
            * 3
            * (shape.hidden + shape.intermediate)
            * micro_tokens(runtime, batch),
            "head": _head(shape, "score"),
        }
        | _masks(runtime, batch, micro_tokens(runtime, batch))
        | _libraries(runtime)
    )


def micro_tokens(runtime: RuntimeConfig, batch: Batch) -> float:
    """Input tokens of the largest model call.

    The token budget, or the longest sequence if that exceeds it; at most the whole batch.
    """
    return min(max(runtime.token_budget, batch.prompt + batch.longest), batch.counts().tokens)


def activation_bytes(shape: ModelShape, dtype: str) -> float:
    """Bytes that a layer saves per token for the backward pass.

    Of transformers' Llama and Qwen layers and our attention. Both norms save their input and its
    normalized copy in float32 (4 H). In the dtype of the model are saved: the inputs of the
    projections and of the MLP (2 H), the queries, keys and values of the attention buckets with
    padding, the attention output twice, and the four products of the MLP.
    """
    mixed = 2 * shape.hidden + 3.5 * shape.queries + 3 * shape.keys + 4 * shape.intermediate
    return 4 * 4 * shape.hidden + width(dtype) * mixed


def mask_bytes(batch: Batch, tokens: float) -> float:
    """Bytes of the layout's attention masks in one model call.

    One byte per pair of query and key of each response, plus up to a fifth of padding.
    """
    responses = tokens / (batch.prompt / batch.samples + batch.response)
    return (
        1.2 * responses * (1 + batch.spread**2) * batch.response * (batch.response + batch.prompt)
    )


def cache_bytes(shape: ModelShape, dtype: str, tokens: float) -> float:
    """Bytes of the cache of one sequence of `tokens` tokens.

    Keys and values, and the float32 state of linear attention.
    """
    return shape.cache_values() * width(dtype) * tokens + shape.state_values() * 4


def _head(shape: ModelShape, work: str) -> float:
    return HEAD_COPIES * HEAD_TOKENS[work] * shape.vocab * 4


def _masks(runtime: RuntimeConfig, batch: Batch, tokens: float) -> Parts:
    """Masks on a CPU; on a GPU one kernel needs none (`erpd_core.attention`)."""
    return {} if _on_gpu(runtime) else {"masks": mask_bytes(batch, tokens)}


def _libraries(runtime: RuntimeConfig) -> Parts:
    return {} if _on_gpu(runtime) else {"libraries": LIBRARIES}


def _on_gpu(runtime: RuntimeConfig) -> bool:
    return runtime.device == "cuda" or runtime.gpus > 0
