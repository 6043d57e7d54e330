"""The victims and how to find their processes: only those of this home, never by name alone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import psutil
from campaign_requests import CampaignRequest, Command, FlowRun
from services import Stack, alive

Finder = Callable[[Stack, CampaignRequest], list[psutil.Process]]


@dataclass(frozen=True)
class Victim:
    name: str
    find: Finder
    """Returns its current processes; none if it is not there."""
    bring_back: Callable[[Stack], None] = lambda stack: None
    """Restarts it as an operator does; nothing if the program recovers by itself."""
    by: type[CampaignRequest] = Command
    """How the campaign is started."""
    changes: tuple[str, ...] = ()
    """Overrides that spread the campaign over the cluster, if the victim exists only then."""


def driver(stack: Stack, request: CampaignRequest) -> list[psutil.Process]:
    """The `erpd run` process alone; its children must end by themselves."""
    return alive([process]) if (process := request.process) else []


def flow_run(stack: Stack, request: CampaignRequest) -> list[psutil.Process]:
    """The process that Prefect's runner started for this flow run.

    Its children must end by themselves.
    """
    assert isinstance(request, FlowRun)
    ours = {}
    for process in stack.campaign_processes() + stack.services["deployments"].family():
        with suppress(psutil.Error):
            if process.environ().get("PREFECT__FLOW_RUN_ID", "").replace(
                "-", ""
            ) == request.id.replace("-", ""):
                ours[process.pid] = process
    return [process for process in ours.values() if process.ppid() not in ours]


def worker(stack: Stack, request: CampaignRequest) -> list[psutil.Process]:
    """One Ray worker that is running a stage."""
    return [process for process, what in stack.at_work().items() if not what.startswith("Sampler")][
        :1
    ]


def rollout_actor(stack: Stack, request: CampaignRequest) -> list[psutil.Process]:
    """One of the sampling actors."""
    return [process for process, what in stack.at_work().items() if what.startswith("Sampler")][:1]


def ray_head(stack: Stack, request: CampaignRequest) -> list[psutil.Process]:
    """The head's control store (GCS) and its raylet."""
    return [
        process
        for process in stack.services["ray-head"].family()
        if process.name() in ("gcs_server", "raylet")
    ]


def postmaster(stack: Stack, request: CampaignRequest) -> list[psutil.Process]:
    return alive([psutil.Process(stack.postgres.process.pid)])


def server(name: str) -> Victim:
    """A server with all its processes."""

    def bring_back(stack: Stack) -> None:
        stack.services[name].start()
        stack.services[name].wait()

    return Victim(name, lambda stack, request: stack.services[name].family(), bring_back)


def restart_postgres(stack: Stack) -> None:
    stack.postgres.process.wait()
    stack.postgres.start()


VICTIMS = (
    Victim("driver", driver),
    server("mlflow"),
    server("prefect"),
    Victim("flow run", flow_run, by=FlowRun),
    Victim("postgresql", postmaster, restart_postgres),
    Victim("ray head", ray_head, Stack.start_ray),
    Victim("ray worker", worker),
    Victim(
        "rollout actor", rollout_actor, changes=("runtime.samplers=2", "runtime.sampler_cpus=1")
    ),
)
"""The victims, in the order of the trials."""
