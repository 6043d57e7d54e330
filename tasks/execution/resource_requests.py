"""What stages, samplers, scorers and trainers request of Ray.

Does not import Prefect or Ray.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from erpd_core.config import RuntimeConfig
from tasks.host.machine import cores


@dataclass(frozen=True)
class ResourceRequest:
    """What a task or an actor requests of Ray: CPU threads, and GPUs or parts of one."""

    cpus: int
    gpus: float

    @property
    def options(self) -> dict[str, float]:
        return {"num_cpus": self.cpus, "num_gpus": self.gpus}


def stage_request(runtime: RuntimeConfig) -> ResourceRequest:
    """The request of a stage that works in its own process."""
    return ResourceRequest(stage_cpus(runtime), runtime.gpus)


def sampler_request(runtime: RuntimeConfig) -> ResourceRequest:
    """The request of one sampler: as the runtime sets, else an equal part of the stage's.

    Ray counts GPUs in units of 1/10,000.
    """
    part = runtime.gpus / runtime.samplers
    gpus = math.floor(part) if part > 1 else math.floor(part * 1e4) / 1e4
    return ResourceRequest(
        cpus=runtime.sampler_cpus or max(1, stage_cpus(runtime) // runtime.samplers),
        gpus=gpus if runtime.sampler_gpus is None else runtime.sampler_gpus,
    )


def scorer_request(runtime: RuntimeConfig) -> ResourceRequest:
    """The request of one scorer: an equal part of the stage's CPUs, and one GPU if it has any."""
    return ResourceRequest(
        cpus=max(1, stage_cpus(runtime) // runtime.scorers), gpus=float(runtime.gpus > 0)
    )


def trainer_request(runtime: RuntimeConfig) -> ResourceRequest:
    """The request of one trainer: as the runtime sets, else like a scorer's.

    That is an equal part of the stage's CPUs, and one GPU if the stage has any.
    """
    return ResourceRequest(
        cpus=runtime.trainer_cpus or max(1, stage_cpus(runtime) // runtime.trainers),
        gpus=float(runtime.gpus > 0)
        if runtime.trainer_gpus is None
        else float(runtime.trainer_gpus),
    )


def actors_request(verb: str, runtime: RuntimeConfig) -> ResourceRequest:
    """What the actors of a stage request together.

    **Arguments:**
        verb: The stage's verb: `score` uses scorers, `train` and `distill` trainers, others
            samplers.
    """
    if verb == "score":
        each, count = scorer_request(runtime), runtime.scorers
    elif verb in ("train", "distill"):
        each, count = trainer_request(runtime), runtime.trainers
    else:
        each, count = sampler_request(runtime), runtime.samplers
    return ResourceRequest(count * each.cpus, count * each.gpus)


def local_cpus(runtime: RuntimeConfig) -> int:
    """CPUs of a local Ray: all of the machine's, so that smaller stages run side by side."""
    return max(cores(), stage_cpus(runtime))


def stage_cpus(runtime: RuntimeConfig) -> int:
    """CPU threads of one stage."""
    return runtime.cpus or cores()
