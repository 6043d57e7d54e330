"""Policies as transformers models: loading, saving, what the trainer needs of them. Safetensors
only; no code but what the recipe names.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from erpd_core.batch import TokenBatch
from erpd_core.config import RuntimeConfig
from tasks.models.hf import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from tasks.models.layouts import Layout, choose_rows, require_plain_head
from tasks.models.model_files import trusts_code


class HFPolicy:
    """A transformers causal LM behind `erpd_core.optimize.PolicyModel`."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @cached_property
    def _chosen(self) -> tuple[Layout, str | None]:
        """Its layout, tried when first asked for: who only saves a policy has no use for one."""
        require_plain_head(self.model)
        return choose_rows(self.model, self.body, self.device)

    @property
    def _rows(self) -> Layout:
        return self._chosen[0]

    @property
    def fallback(self) -> str | None:
        """Why it is not run on the fast layout; None where it is."""
        return self._chosen[1]

    def plan(self, batch: TokenBatch, sequences: Tensor, token_budget: int) -> Sequence[Any]:
        """Micro-batches in this model's layout."""
        return self._rows.plan(batch, sequences, token_budget)

    def hidden(self, micro: Any) -> Tensor:
        """[N, H] final hidden states that predict each response token."""
        states = self.body(**self._rows.inputs(micro, self.device))
        return states.flatten(0, 1).index_select(0, micro.predict_N.to(states.device))

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        device: torch.device = self.model.device
        return device

    def body(self, **inputs: Any) -> Tensor:
        """[B, L, H] final hidden states."""
        states: Tensor = self.model.base_model(use_cache=False, **inputs).last_hidden_state
        return states

    def head(self) -> Tensor:
        weight: Tensor = self.model.get_output_embeddings().weight
        return weight

    def whole(self) -> HFPolicy | None:
        """The policy with all its weights, for whoever writes it; None where another worker does
        (`tasks.training.fsdp_policy`).
        """
        return self

    def parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    @property
    def layers(self) -> Iterable[torch.nn.Module]:
        """The decoder blocks."""
        layers: Iterable[torch.nn.Module] = self.model.base_model.layers
        return layers

    def recompute(self) -> None:
        """Of each decoder block keep what goes in, and work out the rest again when its gradient
        is made: memory for a third more time.
        """
        for layer in self.layers:
            # eval mode: no dropout
            layer.forward = partial(
                checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False
            )

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Within it `model` has the attention it was loaded with, for an engine that samples
        these very weights between updates.
        """
        with self._rows.off(self.model):
            yield

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        return self.model.named_parameters()


def device_of(runtime: RuntimeConfig) -> torch.device:
    if runtime.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(runtime.device)


def load_model(folder: Path, runtime: RuntimeConfig) -> Any:
    """The causal LM in `folder`, on the runtime's device, in eval mode (no dropout: ratios must be
    exact).

    Raises ValueError where the weights lack tensors of it: transformers would draw them at random
    and go on.
    """
    model, told = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=getattr(torch, runtime.dtype),
        use_safetensors=True,
        trust_remote_code=trusts_code(folder),
        local_files_only=True,
        output_loading_info=True,
    )
    if missing := sorted(told["missing_keys"]):
        raise ValueError(
            f"model: {folder}: its weights lack {len(missing)} tensors ({missing[0]} is one); "
            f"copy the model's files again"
        )
    return model.to(device_of(runtime)).eval()


def load_policy(
    folder: Path, runtime: RuntimeConfig, say: Callable[[str], object] | None = None
) -> HFPolicy:
    """The policy in `folder`. `say` is told where it is not run on the fast layout, and why."""
    policy = HFPolicy(load_model(folder, runtime))
    if say and policy.fallback:
        say(policy.fallback)
    return policy


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(
        folder, trust_remote_code=trusts_code(folder), local_files_only=True
    )


def vocabulary(folder: Path) -> int:
    """Output tokens of the model in `folder`."""
    config = json.loads((folder / "config.json").read_text())
    # of an image-text model, its text part
    return int(config.get("text_config", config)["vocab_size"])


def context_length(folder: Path) -> int:
    """Tokens of a prompt and its response together that the model in `folder` was made for; no
    bound when its config names none.
    """
    config = AutoConfig.from_pretrained(
        folder, trust_remote_code=trusts_code(folder), local_files_only=True
    ).get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    stretched = rope.get("factor") if rope.get("rope_type") in ("linear", "dynamic") else None
    return int(getattr(config, "max_position_embeddings", sys.maxsize) * (stretched or 1))


def save_policy(policy: HFPolicy, folder: Path, like: Path) -> None:
    """Write weights and config to `folder`, and every other small file (tokenizer, generation
    config, licence) from `like`.
    """
    policy.model.save_pretrained(folder, safe_serialization=True)
    for path in like.iterdir():
        weights = path.name.startswith("model") or ".safetensors" in path.name
        if (
            path.is_file()
            and path.name != "manifest.json"
            and not weights
            and not (folder / path.name).exists()
        ):
            shutil.copyfile(path, folder / path.name)


def stop_tokens(folder: Path, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that end a response: the tokenizer's eos and every eos of the generation config."""
    path = folder / "generation_config.json"
    listed = json.loads(path.read_text()).get("eos_token_id") if path.exists() else None
    more = listed if isinstance(listed, list) else [listed]
    return {token for token in [tokenizer.eos_token_id, *more] if token is not None}
