"""Policies as transformers models: loading, saving, and what the trainer needs of them.

Weights are safetensors only. No code of a model runs unless the recipe names it.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from erpd_core.batch import TokenBatch
from erpd_core.config import RuntimeConfig
from tasks.host.machine import device_name
from tasks.models.layouts import Layout, choose_rows, require_plain_head
from tasks.models.model_files import trusts_code

if TYPE_CHECKING:
    from tasks.models.hf import PreTrainedTokenizerBase


class HFPolicy:
    """A transformers causal LM that implements `erpd_core.optimize.PolicyModel`."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @cached_property
    def _chosen(self) -> tuple[Layout, str | None]:
        """The layout and `fallback`, tried on first use: saving a policy needs neither."""
        require_plain_head(self.model)
        return choose_rows(self.model, self.body, self.device)

    @property
    def _rows(self) -> Layout:
        return self._chosen[0]

    @property
    def fallback(self) -> str | None:
        """Why it does not run on the fast layout; None if it does."""
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
        """The device it computes on."""
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
        """The policy with all its weights, for saving; None if another worker saves it.

        The latter happens in `tasks.training.fsdp_policy`.
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
        """Keep only the inputs of each decoder block and compute the rest again for its gradient.

        Saves memory for a third more time.
        """
        for layer in self.layers:
            # no random state to preserve: in eval mode there is no dropout
            layer.forward = partial(
                checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False
            )

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Within this context `model` has the attention it was loaded with.

        For an engine that samples from the same weights between updates.
        """
        with self._rows.off(self.model):
            yield

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        return self.model.named_parameters()


def device_of(runtime: RuntimeConfig) -> torch.device:
    """The torch device that models run on here (`device_name`)."""
    return torch.device(device_name(runtime))


def load_model(folder: Path, runtime: RuntimeConfig) -> Any:
    """The causal LM in `folder`, on the runtime's device and in eval mode.

    Eval mode turns off dropout, because ratios must be exact.

    **Raises:** ValueError if the weights lack tensors of the model: transformers would draw them at
        random and continue.
    """
    from tasks.models.hf import AutoModelForCausalLM  # slow to import

    model, loading_info = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=getattr(torch, runtime.dtype),
        use_safetensors=True,
        trust_remote_code=trusts_code(folder),
        local_files_only=True,
        output_loading_info=True,
    )
    if missing := sorted(loading_info["missing_keys"]):
        raise ValueError(
            f"model: {folder}: its weights lack {len(missing)} tensors ({missing[0]} is one); "
            f"copy the model's files again"
        )
    return model.to(device_of(runtime)).eval()


def load_policy(
    folder: Path, runtime: RuntimeConfig, say: Callable[[str], object] | None = None
) -> HFPolicy:
    """The policy in `folder`. `say` receives the reason if it cannot run on the fast layout."""
    policy = HFPolicy(load_model(folder, runtime))
    if say and policy.fallback:
        say(policy.fallback)
    return policy


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    from tasks.models.hf import AutoTokenizer  # slow to import

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        folder, trust_remote_code=trusts_code(folder), local_files_only=True
    )
    return tokenizer


def vocabulary(folder: Path) -> int:
    """Number of output tokens of the model in `folder`."""
    config = json.loads((folder / "config.json").read_text())
    # an image-text model has it in its text part
    return int(config.get("text_config", config)["vocab_size"])


def context_length(folder: Path) -> int:
    """Largest number of tokens, prompt plus response, that the model in `folder` was made for.

    Unbounded if its config gives no limit.
    """
    from tasks.models.hf import AutoConfig  # slow to import

    config = AutoConfig.from_pretrained(
        folder, trust_remote_code=trusts_code(folder), local_files_only=True
    ).get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    stretched = rope.get("factor") if rope.get("rope_type") in ("linear", "dynamic") else None
    return int(getattr(config, "max_position_embeddings", sys.maxsize) * (stretched or 1))


def save_policy(policy: HFPolicy, folder: Path, like: Path) -> None:
    """Write weights and config to `folder`, and copy every other small file from `like`.

    Those are the tokenizer, the generation config, the license and the like.
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
