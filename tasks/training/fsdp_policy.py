"""A transformers model sharded with FSDP2: each worker holds rows of every parameter.

Parameters are complete only while they are used. Decoder blocks are gathered one by one, before
their forward and again before their backward. The root holds the rest: embeddings, last norm and
output head. It is gathered before the forward of a micro-batch and kept until its backward is done,
because the fused head loss (`erpd_core.logprobs`) needs the complete head in between. Once per
micro-batch, the gradients of the root, with that of the head (and of embeddings tied to it), are
summed over workers and go back to the shards.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor

from erpd_core.config import RuntimeConfig
from erpd_core.parallel import WorkerGroup, local, rows_of
from tasks.models.hf import AutoConfig, AutoModelForCausalLM
from tasks.models.layouts import Layout, choose_rows
from tasks.models.model_files import trusts_code
from tasks.models.policy import HFPolicy, device_of
from tasks.training.sharded_tensors import Rows


class _Root(nn.Module):
    """The root FSDP module. Its forward is that of the model's body.

    So the root's parameters are gathered for the body and for the head.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Any) -> Tensor:
        states: Tensor = self.model.base_model(use_cache=False, **inputs).last_hidden_state
        return states


class ShardedPolicy(HFPolicy):
    """An `HFPolicy` whose parameters are sharded over workers.

    Weights are float32. Computation is in the runtime's dtype; gradients are summed in float32.
    """

    def __init__(self, folder: Path, runtime: RuntimeConfig, workers: WorkerGroup) -> None:
        self._folder, self._device = folder, device_of(runtime)
        super().__init__(_blank(folder))
        if runtime.recompute:
            self.recompute()
        self._root = self._shard(runtime, workers)
        self._root.to_empty(device="cpu" if self._offloads(runtime) else self._device)
        _fill_buffers(self.model, self._device)
        self._fill(workers)

    @property
    def device(self) -> torch.device:
        return self._device

    @cached_property
    def _chosen(self) -> tuple[Layout, str | None]:
        """The layout, tried by all workers together.

        That the model has a plain head was checked when the columns were computed.
        """
        chosen = choose_rows(self.model, self.body, self.device)
        # a forward without a backward leaves the root gathered
        cast(FSDPModule, self._root).reshard()
        return chosen

    def body(self, **inputs: Any) -> Tensor:
        states: Tensor = self._root(**inputs)
        return states

    def whole(self) -> HFPolicy | None:
        """The complete policy, on the CPU of the first worker; None for the others.

        Every worker makes this call. Parameters are gathered one by one. The first worker's host
        needs memory for the complete model, each device for the largest parameter.
        """
        state: dict[str, Tensor] = {}
        for name, parameter in self.named_parameters():
            full = cast(DTensor, parameter.detach()).full_tensor()
            if torch.distributed.get_rank() == 0:
                state[name] = full.cpu()
        if not state:
            return None
        model = _blank(self._folder)
        model.load_state_dict(state, strict=False, assign=True)
        model.tie_weights()
        return HFPolicy(model)

    def _offloads(self, runtime: RuntimeConfig) -> bool:
        return runtime.offload and self._device.type != "cpu"

    def _shard(self, runtime: RuntimeConfig, workers: WorkerGroup) -> _Root:
        dtype = getattr(torch, runtime.dtype)
        how: dict[str, Any] = {
            "mesh": init_device_mesh(self._device.type, (workers.size,)),
            "mp_policy": MixedPrecisionPolicy()
            if dtype == torch.float32
            else MixedPrecisionPolicy(dtype, torch.float32),
            "offload_policy": CPUOffloadPolicy() if self._offloads(runtime) else OffloadPolicy(),
        }
        for layer in self.layers:
            fully_shard(layer, **how, reshard_after_forward=True)
        root = _Root(self.model)
        fully_shard(root, **how, reshard_after_forward=False)
        for module in root.modules():
            # a loss is normalized by the whole minibatch, so gradients are added, not averaged
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)  # gloo has no other
        return root

    def _fill(self, workers: WorkerGroup) -> None:
        """Read this worker's rows of every parameter from the policy's files.

        **Raises:** LookupError if the files have other names or shapes.
        """
        rows = Rows(sorted(self._folder.glob("model*.safetensors")))
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                local(parameter).copy_(
                    rows.read(name, *rows_of(parameter.shape[0], workers.rank, workers.size))
                )


def _blank(folder: Path) -> Any:
    """The model of `folder`, on the meta device: its weights have no memory."""
    trust = trusts_code(folder)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust, local_files_only=True)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, trust_remote_code=trust
        ).eval()


def _fill_buffers(model: Any, device: torch.device) -> None:
    """Let modules compute their buffers that no file holds, such as rotary frequencies.

    **Raises:** ValueError if a module leaves such a buffer undefined.
    """
    for module in model.modules():
        names = sorted(module._non_persistent_buffers_set)
        for name in names:
            setattr(module, name, torch.full_like(getattr(module, name), torch.nan, device=device))
        if names:
            model._init_weights(module)
        for name in names:
            if not bool(torch.isfinite(getattr(module, name)).all()):
                raise ValueError(
                    f"{type(model).__name__}: {type(module).__name__}.{name} is in no file; "
                    f"runtime.trainers=1 trains it"
                )
