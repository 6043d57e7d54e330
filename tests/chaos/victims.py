"""What is killed: each victim's processes at this moment, found by what belongs to this home and
never by a name alone.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import psutil
from asked import Asked, Command, FlowRun
from services import House, alive

Found = Callable[[House, Asked], list[psutil.Process]]


@dataclass(frozen=True)
class Victim:
    name: str
    find: Found
    """Its processes now; none where it is not there."""
    bring_back: Callable[[House], None] = lambda house: None
    """What an operator does about it; nothing where it is the program's own to begin again."""
    by: type[Asked] = Command
    """How the campaign is asked for."""
    changes: tuple[str, ...] = ()
    """How it is spread over the cluster, where that is what brings the victim about."""


def driver(house: House, asked: Asked) -> list[psutil.Process]:
    """The `erpd run` process itself; what it started has to end by itself."""
    return alive([process]) if (process := asked.process) else []


def flow_run(house: House, asked: Asked) -> list[psutil.Process]:
    """The process that Prefect's runner started for this flow run; what that started in turn has
    to end by itself.
    """
    assert isinstance(asked, FlowRun)
    ours = {}
    for process in house.strangers() + house.services["deployments"].family():
        with suppress(psutil.Error):
            if process.environ().get("PREFECT__FLOW_RUN_ID", "").replace(
                "-", ""
            ) == asked.id.replace("-", ""):
                ours[process.pid] = process
    return [process for process in ours.values() if process.ppid() not in ours]


def worker(house: House, asked: Asked) -> list[psutil.Process]:
    """One Ray worker at work on a stage."""
    return [process for process, what in house.at_work().items() if not what.startswith("Sampler")][
        :1
    ]


def rollout_actor(house: House, asked: Asked) -> list[psutil.Process]:
    """One of the actors that sample."""
    return [process for process, what in house.at_work().items() if what.startswith("Sampler")][:1]


def ray_head(house: House, asked: Asked) -> list[psutil.Process]:
    """The cluster's memory of itself, and the head's own node."""
    return [
        process
        for process in house.services["ray-head"].family()
        if process.name() in ("gcs_server", "raylet")
    ]


def postmaster(house: House, asked: Asked) -> list[psutil.Process]:
    return alive([psutil.Process(house.postgres.process.pid)])


def server(name: str) -> Victim:
    """A server with the processes that answer for it."""

    def bring_back(house: House) -> None:
        house.services[name].start()
        house.services[name].wait()

    return Victim(name, lambda house, asked: house.services[name].family(), bring_back)


def restart_postgres(house: House) -> None:
    house.postgres.process.wait()
    house.postgres.start()


VICTIMS = (
    Victim("driver", driver),
    server("mlflow"),
    server("prefect"),
    Victim("flow run", flow_run, by=FlowRun),
    Victim("postgresql", postmaster, restart_postgres),
    Victim("ray head", ray_head, House.start_ray),
    Victim("ray worker", worker),
    Victim(
        "rollout actor", rollout_actor, changes=("runtime.samplers=2", "runtime.sampler_cpus=1")
    ),
)
"""In turn."""
