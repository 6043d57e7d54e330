"""The machine of an estimate, as data that a user can set."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt

from erpd_core.refs import Frozen

Share = Annotated[float, Field(gt=0.0, le=1.0)]


class Efficiency(Frozen):
    """Shares of the peak rates that are reached: assumptions, unless they were measured."""

    train: Share
    """Share of the matrix rate in the forward and backward of training."""
    score: Share
    """Share of the matrix rate in a forward without gradients and in reading prompts."""
    memory: Share
    """Share of the memory bandwidth."""


class Machine(Frozen):
    """One kind of device: a GPU, or a whole machine without GPUs.

    **Example:** an H100 has `matrix_flops={"bfloat16": 989e12, "float32": 495e12}` (float32 by
    TF32), `bandwidth=3.35e12`, `memory=80e9`.
    """

    name: str
    source: str
    """Where the peak rates come from."""
    matrix_flops: dict[str, PositiveFloat]
    """dtype -> peak dense FLOP/s of one device."""
    bandwidth: PositiveFloat
    """Bytes per second between a device and its memory."""
    memory: PositiveFloat
    """Bytes of memory of one device."""
    per_node: PositiveInt = 1
    """Devices of a node, connected by `link`."""
    link: PositiveFloat | None = None
    """Bytes per second, each way, between devices of a node; None for a machine without GPUs."""
    network: PositiveFloat | None = None
    """Bytes per second, each way, between nodes."""
    call: Annotated[float, Field(ge=0.0)]
    """Overhead of one layer call in seconds: launching kernels and running Python."""
    step: Annotated[float, Field(ge=0.0)]
    """Overhead of one layer call in sampling in seconds; there, graphs of kernels are launched at
    once.
    """
    efficiency: Efficiency

    def flops(self, dtype: str) -> float:
        """Peak dense FLOP/s of one device for a dtype."""
        return self.matrix_flops[dtype]

    @property
    def is_gpu(self) -> bool:
        """Whether the device is a GPU, rather than a whole machine."""
        return self.link is not None
