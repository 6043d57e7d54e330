"""Policies as transformers models: loading, the training forward over shared prompts, saving. Safetensors only, remote code never."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from erpd_core.attention import shared_prefix_attention
from erpd_core.config import RuntimeConfig
from erpd_core.layout import AttentionBucket, MicroBatch

SHARED = "erpd_shared"
AttentionInterface.register(SHARED, shared_prefix_attention)


class HFPolicy:
    """A transformers causal LM behind `erpd_core.optimize.PolicyModel`. Works for decoders with full attention in every layer."""

    def __init__(self, model: Any) -> None:
        layers = set(getattr(model.config, "layer_types", None) or ["full_attention"])
        if layers != {"full_attention"}:
            raise ValueError(
                f"{type(model).__name__} has layers of kind {sorted(layers)}; the shared-prompt layout knows full_attention only"
            )
        self._own_attention = model.config._attn_implementation
        model.set_attn_implementation(SHARED)
        self.model = model

    def hidden(self, micro: MicroBatch) -> Tensor:
        """[N, H] final hidden states that predict each response token."""
        device = self.device
        states = self.body(
            input_ids=micro.input_T[None].to(device),
            position_ids=micro.position_T[None].to(device),
            attention_mask={"full_attention": None} if hasattr(self.model.config, "layer_types") else None,
            use_cache=False,
            buckets=tuple(_to(bucket, device) for bucket in micro.buckets),
        )
        return states[0].index_select(0, micro.predict_N.to(device))

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        device: torch.device = self.model.device
        return device

    def body(self, **inputs: Any) -> Tensor:
        """[1, T, H] final hidden states of a flat row."""
        states: Tensor = self.model.base_model(**inputs).last_hidden_state
        return states

    def head(self) -> Tensor:
        weight: Tensor = self.model.get_output_embeddings().weight
        return weight

    def whole(self) -> HFPolicy | None:
        """The policy with all its weights, for whoever writes it; None where another worker does (`tasks.sharding.policy`)."""
        return self

    def parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    @property
    def layers(self) -> Iterable[torch.nn.Module]:
        """The decoder blocks."""
        layers: Iterable[torch.nn.Module] = self.model.base_model.layers
        return layers

    def recompute(self) -> None:
        """Of each decoder block keep what goes in, and work out the rest again when its gradient is made: memory for a third more time."""
        for layer in self.layers:
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)  # eval mode: no dropout

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Within it `model` has the attention it was loaded with, for an engine that samples these very weights between updates."""
        self.model.set_attn_implementation(self._own_attention)
        try:
            yield
        finally:
            self.model.set_attn_implementation(SHARED)

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        return self.model.named_parameters()


def _to(bucket: AttentionBucket, device: torch.device) -> AttentionBucket:
    if device.type == "cpu":
        return bucket
    return AttentionBucket(**{name: value.to(device) for name, value in vars(bucket).items()})


def device_of(runtime: RuntimeConfig) -> torch.device:
    if runtime.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(runtime.device)


def load_model(folder: Path, runtime: RuntimeConfig) -> Any:
    """The causal LM in `folder`, on the runtime's device, in eval mode (no dropout: ratios must be exact)."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, runtime.dtype), use_safetensors=True, trust_remote_code=False, local_files_only=True
    )
    return model.to(device_of(runtime)).eval()


def load_policy(folder: Path, runtime: RuntimeConfig) -> HFPolicy:
    return HFPolicy(load_model(folder, runtime))


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def vocabulary(folder: Path) -> int:
    """Output tokens of the model in `folder`."""
    config = json.loads((folder / "config.json").read_text())
    return int(config["vocab_size"])


def context_length(folder: Path) -> int:
    """Tokens of a prompt and its response together that the model in `folder` was made for; no bound when its config names none."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True).get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    stretched = rope.get("factor") if rope.get("rope_type") in ("linear", "dynamic") else None
    return int(getattr(config, "max_position_embeddings", sys.maxsize) * (stretched or 1))


def save_policy(policy: HFPolicy, folder: Path, like: Path) -> None:
    """Write weights and config to `folder`, and every other small file (tokenizer, generation config, licence) from `like`."""
    policy.model.save_pretrained(folder, safe_serialization=True)
    for path in like.iterdir():
        if path.is_file() and path.name != "manifest.json" and not path.name.startswith("model") and not (folder / path.name).exists():
            shutil.copyfile(path, folder / path.name)


def stop_tokens(folder: Path, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that end a response: the tokenizer's eos and every eos of the generation config."""
    path = folder / "generation_config.json"
    listed = json.loads(path.read_text()).get("eos_token_id") if path.exists() else None
    more = listed if isinstance(listed, list) else [listed]
    return {token for token in [tokenizer.eos_token_id, *more] if token is not None}
