"""What each of the workers that train one model does."""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import psutil
import torch
import torch.distributed as dist

from erpd_core.config import RuntimeConfig
from erpd_core.parallel import DistributedGroup, WorkerGroup
from erpd_core.refs import TrainingRef
from tasks.execution.stage import Context
from tasks.host.machine import use_threads
from tasks.models.policy import device_of
from tasks.store import Build

PATIENCE = timedelta(hours=1)
"""Longest a worker waits for another: more than the first takes to write a policy."""


class Trained(Protocol):
    """A stage whose training several may do together."""

    def train(self, context: Context, build: Build, workers: WorkerGroup) -> TrainingRef: ...


class Worker:
    """Holds a shard of the model; `train` is the stage's own, on this worker's part of every
    minibatch.
    """

    def __init__(
        self, stage: Trained, context: Context, build: Build, rank: int, meeting: Path, address: str
    ) -> None:
        self.stage, self.context, self.build = stage, context, build
        self.rank, self.meeting, self.address = rank, meeting, address

    def train(self) -> TrainingRef:
        """Every worker returns the same; the first has written it."""
        runtime = self.context.runtime
        use_threads(runtime.cpus)
        meet(runtime, self.rank, runtime.trainers, self.meeting, self.address)
        try:
            return self.stage.train(self.context, self.build, DistributedGroup())
        finally:
            dist.destroy_process_group()


def meet(runtime: RuntimeConfig, rank: int, size: int, meeting: Path, address: str) -> None:
    """Join the process group of the workers that come to the file `meeting`: no port is chosen,
    none can be taken.

    They talk over the network interface that has `address`, by gloo, and on GPUs by NCCL, where
    gloo is for what lies in host memory.
    """
    interface = _interface(address)
    if interface is not None:
        for library in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", interface)
    backend = "gloo"
    if device_of(runtime).type == "cuda":
        torch.cuda.set_device(0)  # Ray shows a worker its own GPU and no other
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(
        backend, init_method=f"file://{meeting}", rank=rank, world_size=size, timeout=PATIENCE
    )


def _interface(address: str) -> str | None:
    for name, held in psutil.net_if_addrs().items():
        if any(one.family == socket.AF_INET and one.address == address for one in held):
            return name
    return None
