"""What stages, samplers and trainers ask of Ray. Light: imports neither Prefect nor Ray."""

from __future__ import annotations

import math
from dataclasses import dataclass

from erpd_core.config import RuntimeConfig
from tasks.host.machine import cores


@dataclass(frozen=True)
class ResourceRequest:
    """What a task or an actor asks of Ray."""

    cpus: int
    gpus: float

    @property
    def options(self) -> dict[str, float]:
        return {"num_cpus": self.cpus, "num_gpus": self.gpus}


def stage_request(runtime: RuntimeConfig) -> ResourceRequest:
    """For work in a stage's own process."""
    return ResourceRequest(stage_cpus(runtime), runtime.gpus)


def sampler_request(runtime: RuntimeConfig) -> ResourceRequest:
    """For one of a stage's samplers: what the runtime says, else an equal part of the stage's.
    Ray counts GPUs by 1/10,000.
    """
    part = runtime.gpus / runtime.samplers
    gpus = math.floor(part) if part > 1 else math.floor(part * 1e4) / 1e4
    return ResourceRequest(
        cpus=runtime.sampler_cpus or max(1, stage_cpus(runtime) // runtime.samplers),
        gpus=gpus if runtime.sampler_gpus is None else runtime.sampler_gpus,
    )


def scorer_request(runtime: RuntimeConfig) -> ResourceRequest:
    """For one of a stage's scorers: an equal part of the stage's CPUs and, where it has GPUs,
    one.
    """
    return ResourceRequest(
        cpus=max(1, stage_cpus(runtime) // runtime.scorers), gpus=float(runtime.gpus > 0)
    )


def trainer_request(runtime: RuntimeConfig) -> ResourceRequest:
    """For one of a stage's trainers: what the runtime says, else an equal part of the stage's
    CPUs and, where it has GPUs, one.
    """
    return ResourceRequest(
        cpus=runtime.trainer_cpus or max(1, stage_cpus(runtime) // runtime.trainers),
        gpus=float(runtime.gpus > 0)
        if runtime.trainer_gpus is None
        else float(runtime.trainer_gpus),
    )


def local_cpus(runtime: RuntimeConfig) -> int:
    """What a local Ray has to give: the machine's, so that stages with a part of it run side by
    side.
    """
    return max(cores(), stage_cpus(runtime))


def stage_cpus(runtime: RuntimeConfig) -> int:
    """CPU threads one stage gets."""
    return runtime.cpus or cores()
