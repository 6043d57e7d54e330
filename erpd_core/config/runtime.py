"""What the machine is like."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt, field_validator

from erpd_core.config.common import Config, NonNegative


class RuntimeConfig(Config):
    """What the machine is like. Never part of an identity: the same campaign on another machine is the same campaign."""

    ray: Literal["on", "off"] = "on"
    """`on`: coarse stages run as Ray tasks; `off`: in threads of this process."""
    ray_address: str | None = None
    """Address of an existing cluster; a local one is started when absent."""
    engine: Literal["auto", "transformers", "vllm"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    cpus: PositiveInt | None = None
    """CPU threads of one stage; all of the machine's when absent."""
    gpus: NonNegative = 0.0
    """GPUs one stage asks of Ray."""
    token_budget: PositiveInt = 4096
    """Input tokens per micro-batch: memory of a model call, not a hyperparameter."""
    checkpoint_every: PositiveInt = 20
    """Optimizer steps between resumable checkpoints."""

    @field_validator("ray", mode="before")
    @classmethod
    def _yaml_reads_on_and_off_as_booleans(cls, ray: object) -> object:
        return {True: "on", False: "off"}[ray] if isinstance(ray, bool) else ray
