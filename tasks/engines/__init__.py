"""Sampling engines behind one interface. `transformers` is here; vLLM takes its place beside it (see `open_engine`)."""

from __future__ import annotations

from pathlib import Path

from erpd_core.config import RuntimeConfig
from tasks.engines.base import Engine, Sample

__all__ = ["Engine", "Sample", "check_engine", "open_engine"]


def open_engine(folder: Path, runtime: RuntimeConfig) -> Engine:
    """The engine the runtime asks for, with the policy in `folder` loaded. `auto` is transformers until vLLM is there."""
    check_engine(runtime)
    from tasks.engines.hf import TransformersEngine

    return TransformersEngine(folder, runtime)


def check_engine(runtime: RuntimeConfig) -> None:
    """Raises ValueError for an engine that cannot be had here."""
    if runtime.engine == "vllm":
        raise ValueError("runtime.engine: vllm is not part of this version yet; use runtime.engine=transformers")
