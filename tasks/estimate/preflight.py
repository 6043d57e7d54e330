"""Checks that a runtime works here and that every stage fits. Imports neither Prefect nor Ray."""

from __future__ import annotations

from erpd_core.config import PPO, CampaignConfig, RuntimeConfig
from tasks.engines import check_engine
from tasks.estimate import known_model
from tasks.execution.capacity import Requirement, refuse_impossible, requirements, this_node
from tasks.host.home import home
from tasks.host.services import ray_address

SOCKET_LIMIT = 45
"""Maximum characters of Ray's folder: its socket paths must fit into 107 bytes."""


def check_runtime(runtime: RuntimeConfig) -> None:
    """Refuse a runtime that cannot work on this machine, by a ValueError, before anything starts.

    For a cluster it checks nothing: the nodes have the devices and engines, and this machine need
    not have them (`tasks.execution.capacity`).
    """
    if runtime.ray == "on" and ray_address(runtime.ray_address):
        return
    check_engine(runtime)
    if runtime.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise ValueError(
                "runtime.device: cuda, but torch sees no GPU here; use runtime.device=cpu, or a "
                "CUDA build of torch"
            )
    folder = home() / "ray"
    if runtime.ray == "on" and len(str(folder)) > SOCKET_LIMIT:
        raise ValueError(
            f"runtime.ray: Ray's sockets do not fit under {folder} ({len(str(folder))} "
            f"characters, at most {SOCKET_LIMIT});"
            " set ERPD_HOME to a shorter path, or --set runtime.ray=off"
        )


def check_capacity(config: CampaignConfig) -> None:
    """Refuse a campaign of which a stage needs more than Ray can ever give, by a ValueError.

    Ray is the cluster, or the one started on this machine.
    """
    runtime = config.runtime
    if runtime.ray == "off":
        return
    needs = campaign_requirements(config)
    if ray_address(runtime.ray_address):
        from tasks.execution.ray_cluster import cluster_nodes

        refuse_impossible(needs, cluster_nodes(runtime), runtime)
    else:
        refuse_impossible(needs, [this_node(needs, runtime)], runtime)


def campaign_requirements(config: CampaignConfig) -> list[Requirement]:
    """What the stages of a campaign need from Ray."""
    trained = [config.teacher, config.weak_teacher, *config.runs.values()]
    alone = (
        ["the critic's training"]
        if any(run and isinstance(run.loss, PPO) for run in trained)
        else []
    )
    alone += ["the online stage"] if config.online else []
    shape = known_model(config.model, config.sampling.max_new_tokens).shape
    return requirements(config.runtime, shape.parameters if shape else 0, alone)
