"""A worker of a sharded training: it joins the process group and runs the stage's training."""

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

COLLECTIVE_TIMEOUT = timedelta(hours=1)
"""Longest wait of a worker for another; more than the first one takes to write a policy."""


class ShardedTraining(Protocol):
    """A stage that several workers can train together."""

    def train(self, context: Context, build: Build, workers: WorkerGroup) -> TrainingRef: ...


class Worker:
    """Holds a shard of the model and works on its part of every minibatch."""

    def __init__(
        self,
        stage: ShardedTraining,
        context: Context,
        build: Build,
        rank: int,
        rendezvous: Path,
        address: str,
    ) -> None:
        self.stage, self.context, self.build = stage, context, build
        self.rank, self.rendezvous, self.address = rank, rendezvous, address

    def train(self) -> TrainingRef:
        """Run the stage's training. All workers return the same result; the first writes it."""
        runtime = self.context.runtime
        use_threads(runtime.cpus)
        join_process_group(runtime, self.rank, runtime.trainers, self.rendezvous, self.address)
        try:
            return self.stage.train(self.context, self.build, DistributedGroup())
        finally:
            dist.destroy_process_group()


def join_process_group(
    runtime: RuntimeConfig, rank: int, size: int, rendezvous: Path, address: str
) -> None:
    """Join the process group of the workers, which find each other through the file `rendezvous`.

    No port has to be chosen, so none can be in use. The workers communicate over the network
    interface that has `address`: by gloo for tensors in host memory, by NCCL for those on GPUs.
    """
    interface = _interface(address)
    if interface is not None:
        for library in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", interface)
    backend = "gloo"
    if device_of(runtime).type == "cuda":
        torch.cuda.set_device(0)  # Ray shows a worker only its own GPU
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(
        backend,
        init_method=f"file://{rendezvous}",
        rank=rank,
        world_size=size,
        timeout=COLLECTIVE_TIMEOUT,
    )


def _interface(address: str) -> str | None:
    for name, own in psutil.net_if_addrs().items():
        if any(entry.family == socket.AF_INET and entry.address == address for entry in own):
            return name
    return None
