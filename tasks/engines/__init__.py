"""Sampling engines behind one interface. `transformers` is here; vLLM takes its place beside it (see `open_engine`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from erpd_core.config import RuntimeConfig
from tasks.engines.base import Engine, Finished, Sample

if TYPE_CHECKING:
    from tasks.models import HFPolicy

__all__ = ["Engine", "Finished", "Sample", "check_engine", "open_engine"]


def open_engine(folder: Path, runtime: RuntimeConfig, trained: HFPolicy | None = None) -> Engine:
    """The engine the runtime asks for, with the policy in `folder` loaded. `auto` is transformers until vLLM is there.

    **Arguments:** `trained`, the policy a trainer of this process loaded from `folder`. An engine that can, samples from its very weights;
    one that cannot has a copy of its own. Either follows an update by `engine.load_weights(trained.model.named_parameters())`.
    """
    check_engine(runtime)
    from tasks.engines.hf import TransformersEngine

    return TransformersEngine(folder, runtime, trained)


def check_engine(runtime: RuntimeConfig) -> None:
    """Raises ValueError for an engine that cannot be had here."""
    if runtime.engine == "vllm":
        raise ValueError("runtime.engine: vllm is not part of this version yet; use runtime.engine=transformers")
