"""The dimensions of a model, on which its cost depends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import PositiveInt

from erpd_core.refs import Frozen


class LinearAttention(Frozen):
    """Gated DeltaNet layers (Qwen3.5): a state of fixed size instead of keys and values."""

    layers: PositiveInt
    key_heads: PositiveInt
    value_heads: PositiveInt
    key_dim: PositiveInt
    value_dim: PositiveInt

    @property
    def keys(self) -> int:
        return self.key_heads * self.key_dim

    @property
    def values(self) -> int:
        return self.value_heads * self.value_dim


class ModelShape(Frozen):
    """A decoder with gated MLPs (Llama, Qwen2, Qwen3, Qwen3.5).

    Norms and biases, under 1 % of the weights, are left out.

    **Example:** `ModelShape(layers=36, hidden=2560, heads=32, kv_heads=8, head_dim=128,
    intermediate=9728, vocab=151936, tied=True)` is Qwen3-4B: 4.02 billion weights.
    """

    layers: PositiveInt
    """All layers, including those of `linear`."""
    hidden: PositiveInt
    heads: PositiveInt
    kv_heads: PositiveInt
    head_dim: PositiveInt
    intermediate: PositiveInt
    vocab: PositiveInt
    tied: bool
    """Whether the output head is the embedding."""
    gated: bool = False
    """Whether attention has an output gate, as wide as its queries (Qwen3.5)."""
    linear: LinearAttention | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ModelShape:
        """Read the dimensions from the content of a transformers config.json.

        **Raises:** ValueError for a mixture of experts, or if a dimension is missing.
        """
        text = config.get("text_config", config)
        if experts := next(
            (key for key in ("num_experts", "num_local_experts") if text.get(key)), None
        ):
            raise ValueError(
                f"a mixture of experts ({experts}: {text[experts]}) has a cost of another kind, "
                f"which is not counted"
            )
        names = {
            "layers": "num_hidden_layers",
            "hidden": "hidden_size",
            "heads": "num_attention_heads",
            "intermediate": "intermediate_size",
            "vocab": "vocab_size",
        }
        if missing := [name for name in names.values() if name not in text]:
            raise ValueError(f"its config has no {', '.join(missing)}")
        sizes = {ours: text[theirs] for ours, theirs in names.items()}
        kinds = list(text.get("layer_types") or [])
        linear = None
        if count := kinds.count("linear_attention"):
            theirs = (
                "linear_num_key_heads",
                "linear_num_value_heads",
                "linear_key_head_dim",
                "linear_value_head_dim",
            )
            key_heads, value_heads, key_dim, value_dim = (text[name] for name in theirs)
            linear = LinearAttention(
                layers=count,
                key_heads=key_heads,
                value_heads=value_heads,
                key_dim=key_dim,
                value_dim=value_dim,
            )
        return cls(
            **sizes,
            kv_heads=text.get("num_key_value_heads") or sizes["heads"],
            head_dim=text.get("head_dim") or sizes["hidden"] // sizes["heads"],
            tied=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
            gated=bool(text.get("attn_output_gate", linear is not None)),
            linear=linear,
        )

    # -------------------------------------------------------------------------------------- weights

    @property
    def attention_layers(self) -> int:
        """Layers with keys and values."""
        return self.layers - (self.linear.layers if self.linear else 0)

    @property
    def queries(self) -> int:
        """Width of all queries of a token."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Width of all keys of a token."""
        return self.kv_heads * self.head_dim

    @property
    def block_weights(self) -> int:
        """Weights of all layers together; every token is multiplied by them."""
        attention = self.hidden * (self.queries * (3 if self.gated else 2) + 2 * self.keys)
        mixing = self.attention_layers * attention
        if self.linear:
            part = self.linear
            mixing += (
                part.layers * self.hidden * (2 * part.keys + 3 * part.values + 2 * part.value_heads)
            )
        return mixing + self.layers * 3 * self.hidden * self.intermediate

    @property
    def head_weights(self) -> int:
        """Weights of the output head."""
        return self.hidden * self.vocab

    @property
    def parameters(self) -> int:
        """All weights, with the embedding."""
        return self.block_weights + self.head_weights * (1 if self.tied else 2)

    # ------------------------------------------------------------------------------------ attention

    @property
    def products_per_pair(self) -> int:
        """Multiplications for a pair of query and key, over all layers and heads.

        One product is for the score, one for weighing the value.
        """
        return 2 * self.attention_layers * self.queries

    @property
    def products_per_state(self) -> int:
        """Multiplications of linear attention per token: read, correct and read its state again."""
        return (
            3
            * self.linear.layers
            * self.linear.value_heads
            * self.linear.key_dim
            * self.linear.value_dim
            if self.linear
            else 0
        )

    def cache_values(self) -> int:
        """Numbers that the cache keeps per token while sampling: keys and values."""
        return 2 * self.attention_layers * self.keys

    def state_values(self) -> int:
        """Numbers in the state of linear attention, per sequence of any length."""
        return self.products_per_state // 3
