"""What a stage gets of the machine, and what of a runtime cannot work here. Light: imports neither Prefect nor Ray."""

from __future__ import annotations

from erpd_core.config import RuntimeConfig
from tasks.engines import check_engine
from tasks.home import home
from tasks.machine import cores
from tasks.services import ray_address

SOCKET_LIMIT = 45
"""Longest Ray folder whose sockets still fit into the 107 bytes a Unix socket path may have."""


def stage_cpus(runtime: RuntimeConfig) -> int:
    """CPU threads one stage gets."""
    return runtime.cpus or cores()


def check_runtime(runtime: RuntimeConfig) -> None:
    """Raises ValueError when the runtime cannot work here, before anything starts.

    Of a cluster nothing is said here: its nodes have the devices and engines, which this machine need not have (`tasks.needs`).
    """
    if runtime.ray == "on" and ray_address(runtime.ray_address):
        return
    check_engine(runtime)
    if runtime.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise ValueError("runtime.device: cuda, but torch sees no GPU here; use runtime.device=cpu, or a CUDA build of torch")
    folder = home() / "ray"
    if runtime.ray == "on" and len(str(folder)) > SOCKET_LIMIT:
        raise ValueError(f"runtime.ray: Ray's sockets do not fit under {folder} ({len(str(folder))} characters, at most {SOCKET_LIMIT});"
                         " set ERPD_HOME to a shorter path, or --set runtime.ray=off")  # fmt: skip
