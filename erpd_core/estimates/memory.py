"""What one device must hold."""

from __future__ import annotations

from erpd_core.config import RuntimeConfig
from erpd_core.estimates.shape import ModelShape
from erpd_core.estimates.work import Batch

HEAD_TOKENS = {"train": 512, "score": 128}
"""Response tokens whose logits exist at once (`CHUNK` and `FORWARD_CHUNK` of
`erpd_core.logprobs`; a test holds them equal).
"""
HEAD_COPIES = 3
"""Logits, their exponentials and a product of both, in float32."""

LIBRARIES = 0.6e9
"""Bytes of a process with torch and transformers in it."""

Parts = dict[str, float]
"""What takes how many bytes."""


def width(dtype: str) -> int:
    return {"float32": 4, "bfloat16": 2}[dtype]


def training_memory(shape: ModelShape, runtime: RuntimeConfig, batch: Batch, shards: int) -> Parts:
    """Bytes of one device while `shards` of them train: an upper estimate of what
    `tasks.training.off_policy` holds at once.
    """
    # several trainers keep float32 weights, whatever they compute in
    own = 4 if shards > 1 else width(runtime.dtype)
    states = {"weights": own, "gradients": own, "AdamW's moments": 2 * own}
    found: Parts = (
        {}
        if runtime.offload
        else {name: bytes_ * shape.parameters / shards for name, bytes_ in states.items()}
    )
    root = shape.parameters - shape.block_weights  # embeddings and head
    # a block and the next one, and the root from a micro-batch's forward to the end of its backward
    # (docs/sharding.md)
    if shards > 1:
        found["gathered weights"] = width(runtime.dtype) * (
            2 * shape.block_weights / shape.layers + root
        )
    tokens = micro_tokens(runtime, batch)
    layer = activation_bytes(shape, runtime.dtype) * tokens
    kept = shape.hidden * width(runtime.dtype) * tokens
    found["activations"] = (
        shape.layers * kept + layer if runtime.recompute else shape.layers * layer
    )
    found |= _masks(runtime, batch, tokens)
    # its gradient, whole before it is sharded
    found["head"] = _head(shape, "train") + own * (root if shards > 1 else shape.head_weights)
    return found | _libraries(runtime)


def scoring_memory(shape: ModelShape, runtime: RuntimeConfig, batch: Batch) -> Parts:
    """Bytes of one device while it scores: one layer's activations at a time."""
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
    """Tokens of the largest model call: the budget, or one longest response where that alone
    exceeds it, or all there is.
    """
    return min(max(runtime.token_budget, batch.prompt + batch.longest), batch.counts().tokens)


def activation_bytes(shape: ModelShape, dtype: str) -> float:
    """Bytes a token leaves for the backward pass in a layer: what transformers' Llama and Qwen
    layers and our attention save.

    Both norms save their input and its normalised copy in float32 (4 H); in the model's dtype: what
    goes into the projections and the MLP (2 H), the queries, keys and values of attention's buckets
    with their padding, its output twice, and the MLP's four products.
    """
    mixed = 2 * shape.hidden + 3.5 * shape.queries + 3 * shape.keys + 4 * shape.intermediate
    return 4 * 4 * shape.hidden + width(dtype) * mixed


def mask_bytes(batch: Batch, tokens: float) -> float:
    """The layout's masks of one model call, a byte for each query and key of each response, with
    up to a fifth as much of padding.
    """
    responses = tokens / (batch.prompt / batch.samples + batch.response)
    return (
        1.2 * responses * (1 + batch.spread**2) * batch.response * (batch.response + batch.prompt)
    )


def cache_bytes(shape: ModelShape, dtype: str, tokens: float) -> float:
    """Keys and values of one sequence of so many tokens, and the state of linear attention
    (float32).
    """
    return shape.cache_values() * width(dtype) * tokens + shape.state_values() * 4


def _head(shape: ModelShape, work: str) -> float:
    return HEAD_COPIES * HEAD_TOKENS[work] * shape.vocab * 4


def _masks(runtime: RuntimeConfig, batch: Batch, tokens: float) -> Parts:
    """On a GPU one kernel attends over the row, and no mask is written out
    (`erpd_core.attention`).
    """
    return {} if _on_gpu(runtime) else {"masks": mask_bytes(batch, tokens)}


def _libraries(runtime: RuntimeConfig) -> Parts:
    return {} if _on_gpu(runtime) else {"libraries": LIBRARIES}


def _on_gpu(runtime: RuntimeConfig) -> bool:
    return runtime.device == "cuda" or runtime.gpus > 0
