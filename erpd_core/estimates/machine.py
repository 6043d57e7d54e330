"""What a campaign runs on: data, stated and settable."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt

from erpd_core.refs import Frozen

Share = Annotated[float, Field(gt=0.0, le=1.0)]


class Efficiency(Frozen):
    """Shares of the peaks that are taken to be reached. Assumptions, unless they were measured."""

    train: Share
    """Of the matrix rate, in the forward and backward of training."""
    score: Share
    """Of the matrix rate, in a forward without gradients and in reading prompts."""
    memory: Share
    """Of the memory's bandwidth."""


class Machine(Frozen):
    """One kind of device: a GPU, or a whole machine without one.

    Example: an H100 has `matrix_flops={"bfloat16": 989e12, "float32": 495e12}` (float32 by TF32),
    `bandwidth=3.35e12`, `memory=80e9`.
    """

    name: str
    source: str
    """Where the peaks come from."""
    matrix_flops: dict[str, PositiveFloat]
    """dtype -> peak dense FLOP/s of one device."""
    bandwidth: PositiveFloat
    """Bytes a second between a device and its memory."""
    memory: PositiveFloat
    """Bytes of one device."""
    per_node: PositiveInt = 1
    """Devices that `link` joins."""
    link: PositiveFloat | None = None
    """Bytes a second that a device exchanges with others of its node, each way."""
    network: PositiveFloat | None = None
    """The same between nodes."""
    call: Annotated[float, Field(ge=0.0)]
    """Seconds that one layer's call takes however little it computes: launching its kernels,
    running its Python.
    """
    step: Annotated[float, Field(ge=0.0)]
    """The same in sampling, where graphs of kernels are launched at once."""
    efficiency: Efficiency

    def flops(self, dtype: str) -> float:
        return self.matrix_flops[dtype]

    @property
    def is_gpu(self) -> bool:
        return self.link is not None
