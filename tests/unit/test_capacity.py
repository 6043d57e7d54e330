"""Resources that a campaign needs, checked against described clusters.

Real clusters are in tests/integration.
"""

from __future__ import annotations

import math
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from helpers import erpd, sets

from erpd_core.config import PPO, CampaignConfig, RuntimeConfig
from flows.recipes.load import load_recipe
from tasks.engines import check_engine
from tasks.estimate.preflight import campaign_requirements, check_capacity, check_runtime
from tasks.execution.capacity import Node, Requirement, refuse_impossible, requirements
from tasks.execution.ray_cluster import _node, _wait_for_nodes
from tasks.execution.resource_requests import ResourceRequest

SMALL = Node(cpus=2, gpus=0, memory=16e9)
HEAD = Node(cpus=0, gpus=0, memory=4e9)
H100 = Node(cpus=96, gpus=8, memory=1e12, gpu_memory=80e9)
CLUSTER = "1.2.3.4:6379"


def refusal(
    nodes: list[Node], weights: float = 0, alone: tuple[str, ...] = (), **runtime: Any
) -> str:
    """The message of the refusal, or `fits`."""
    config = RuntimeConfig(ray_address=CLUSTER, **runtime)
    try:
        refuse_impossible(requirements(config, weights, alone), nodes, config)
    except ValueError as error:
        assert "\n" not in str(error)
        return str(error)
    return "fits"


# ----------------------------------------------------------------------------------------- messages


@pytest.mark.parametrize(
    ("nodes", "runtime", "said"),
    [
        (
            [SMALL, HEAD],
            {"cpus": 2, "gpus": 8},
            "runtime.gpus: sampling asks for 2 CPU and 8 GPU on one node, and the Ray cluster at "
            "1.2.3.4:6379 has a node of 2 CPU 0 GPU"
            " and a node of 0 CPU 0 GPU; lower runtime.gpus, or add nodes",
        ),
        (
            [SMALL, SMALL, HEAD],
            {"cpus": 4},
            "runtime.cpus: sampling asks for 4 CPU on one node, and the Ray cluster at "
            "1.2.3.4:6379 has 2 nodes of 2 CPU 0 GPU and a node"
            " of 0 CPU 0 GPU; lower runtime.cpus, or add nodes",
        ),
        (
            [SMALL, SMALL],
            {"cpus": 2, "trainers": 4, "trainer_cpus": 2},
            "runtime.trainers: 4 trainers, which start together, ask for 2 CPU each: there is room "
            "for 2, and the Ray cluster at"
            " 1.2.3.4:6379 has 2 nodes of 2 CPU 0 GPU; lower runtime.trainers or "
            "runtime.trainer_cpus, or add nodes",
        ),
        (
            [HEAD],
            {"cpus": 1},
            "runtime.ray_address: drawing problems asks for 1 CPU on one node, and the Ray "
            "cluster at 1.2.3.4:6379 has a node of 0 CPU"
            " 0 GPU; add nodes",
        ),
        (
            [],
            {"cpus": 1},
            "runtime.ray_address: drawing problems asks for 1 CPU on one node, and the Ray "
            "cluster at 1.2.3.4:6379 has no node; add nodes",
        ),
    ],
)
def test_a_refusal_says_who_asks_what_and_what_there_is(
    nodes: list[Node], runtime: dict[str, Any], said: str
) -> None:
    assert refusal(nodes, **runtime) == said


def test_what_no_node_has_together_is_refused_though_the_cluster_has_both() -> None:
    nodes = [Node(cpus=64, gpus=0), Node(cpus=2, gpus=1)]
    assert refusal(nodes, cpus=8, gpus=1).endswith(
        "lower runtime.cpus, or lower runtime.gpus, or add nodes"
    )
    assert refusal(nodes, cpus=2, gpus=1) == "fits"


@pytest.mark.parametrize(
    ("runtime", "key"),
    [
        (
            {"samplers": 2, "sampler_gpus": 0.5},
            "runtime.sampler_gpus: a sampler asks for 1 CPU and 0.5 GPU on one node",
        ),
        (
            {"samplers": 2, "sampler_cpus": 3},
            "runtime.sampler_cpus: a sampler asks for 3 CPU on one node",
        ),
        (
            {"scorers": 2, "cpus": 6, "samplers": 6},
            "runtime.cpus: a scorer asks for 3 CPU on one node",
        ),
        (
            {"trainers": 2, "trainer_gpus": 1},
            "runtime.trainers: 2 trainers, which start together, ask for 1 CPU and 1 GPU each",
        ),
    ],
)
def test_each_kind_of_work_is_refused_by_the_setting_that_is_its_own(
    runtime: dict[str, Any], key: str
) -> None:
    assert refusal([SMALL], **{"cpus": 2, **runtime}).startswith(key)


def test_room_is_nobodys_that_asks_for_none() -> None:
    """Stages with actors need no `cpus` on one node; critics and online stages have none."""
    with_actors = {"cpus": 4, "samplers": 4, "scorers": 4, "trainers": 4}
    assert refusal([SMALL, SMALL], **with_actors) == "fits"
    assert refusal([SMALL, SMALL], alone=("the online stage",), **with_actors).startswith(
        "runtime.cpus: the online stage asks for 4 CPU"
    )


def test_a_ray_that_is_off_needs_nothing() -> None:
    check_capacity(config(runtime=RuntimeConfig(ray="off", gpus=8)))


# -------------------------------------------------------------------------------------------- bytes


def test_a_model_that_a_gpu_cannot_hold_is_refused_unless_trainers_share_it() -> None:
    """27 billion weights: 54 GB in bfloat16 to sample and score, 4 x 54 GB to train alone.

    Several trainers share 4 x 4 bytes per weight.
    """
    paper = {"cpus": 8, "gpus": 8, "dtype": "bfloat16", "samplers": 8, "scorers": 8}
    assert refusal([H100], 27e9, **paper) == "fits", "216 GB on 8 GPUs of 80 GB"
    assert refusal([H100], 27e9, **paper, trainers=8) == "fits", "54 GB each"
    assert refusal([H100], 27e9, **paper, trainers=4) == (
        "runtime.trainers: 4 trainers, which start together, ask for 2 CPU and 1 GPU and at least "
        "108 GB of its memory each: there is room"
        " for 0, and the Ray cluster at 1.2.3.4:6379 has a node of 96 CPU 8 GPU of 80 GB; raise "
        "runtime.trainers, which share it,"
        " or add nodes"
    )
    assert refusal([H100], 27e9, **paper, trainers=4, offload=True) == "fits", "432 GB on the host"
    assert refusal([Node(96, 8, 256e9, 80e9)], 27e9, **paper, trainers=4, offload=True).startswith(
        "runtime.trainers: 4 trainers"
    )
    assert refusal([H100], 50e9, **paper, trainers=32).startswith(
        "model: a sampler asks for 1 CPU and 1 GPU and at least 100 GB"
    )


def test_host_memory_counts_where_no_gpu_can_take_its_place() -> None:
    two_billion = {"weights": 2e9, "cpus": 2}
    assert "training asks for 2 CPU and at least 32 GB of host memory on one node" in refusal(
        [SMALL], **two_billion
    )
    assert "has a node of 2 CPU 16 GB 0 GPU; raise runtime.trainers" in refusal(
        [SMALL], **two_billion
    )
    assert refusal([SMALL] * 2, **two_billion, trainers=2) == "fits"
    assert refusal([Node(2, 1, 16e9)], **two_billion) == "fits", (
        "device auto uses the GPU, whose memory is unknown"
    )
    assert "host memory" in refusal([Node(2, 1, 16e9)], **two_billion, device="cpu")
    assert refusal([Node(2, 0)], **two_billion) == "fits", "the host's memory is unknown"


def test_a_campaign_needs_what_its_own_model_and_stages_do() -> None:
    tiny = config()
    names = [need.name for need in campaign_requirements(tiny)]
    assert names == ["drawing problems", "sampling", "scoring", "training"]
    held = {need.name: need.bytes_each for need in campaign_requirements(tiny)}
    assert 0 < held["sampling"] == held["scoring"] == held["training"] / 4
    critic = tiny.model_copy(update={"teacher": tiny.teacher.model_copy(update={"loss": PPO()})})
    assert campaign_requirements(critic)[-1].name == "the critic's training"
    assert campaign_requirements(load_recipe("tiny-online", ()))[-1].name == "the online stage"


@pytest.mark.parametrize(("recipe", "enough", "too_few"), [("paper", 1, 0), ("paper-27b", 4, 3)])
def test_the_papers_recipes_fit_the_nodes_they_are_for(
    monkeypatch: pytest.MonkeyPatch, recipe: str, enough: int, too_few: int
) -> None:
    """Checked on a machine without GPUs, and on one with GPUs and vLLM for them."""
    campaign = load_recipe(recipe, [f"runtime.ray_address={CLUSTER}"])
    check_runtime(campaign.runtime)
    refuse_impossible(campaign_requirements(campaign), [H100] * enough, campaign.runtime)
    with pytest.raises(ValueError, match="the Ray cluster at"):
        refuse_impossible(campaign_requirements(campaign), [H100] * too_few, campaign.runtime)
    monkeypatch.setattr("tasks.engines.vllm_build", lambda: "cuda")
    check_engine(campaign.runtime)
    with pytest.raises(
        ValueError, match=r"runtime\.tensor_parallel: 8 GPUs, but a sampler asks Ray for"
    ):
        check_engine(
            campaign.runtime.model_copy(update={"tensor_parallel": 8, "sampler_gpus": 2.0})
        )


# -------------------------------------------------------------------------------------------- nodes


def test_a_node_is_what_ray_says_of_it() -> None:
    resources = {
        "CPU": 8.0,
        "GPU": 2.0,
        "memory": 5e10,
        "object_store_memory": 1e9,
        "node:10.0.0.1": 1.0,
        "accelerator_type:H100": 1.0,
    }
    assert _node(resources) == Node(8, 2, 5e10, 80e9)
    assert _node({"memory": 5e10, "accelerator_type:TPU": 1.0}) == Node(0, 0, 5e10, math.inf)


def test_parts_of_a_node_are_counted_as_ray_counts_them() -> None:
    assert (
        Requirement("samplers", ResourceRequest(1, 0.1), {}, count=99).copies_that_fit(Node(100, 1))
        == 10
    )
    assert (
        Requirement("samplers", ResourceRequest(1, 0.3333), {}, count=99).copies_that_fit(
            Node(100, 1)
        )
        == 3
    )
    assert Requirement("waiting", ResourceRequest(0, 0.0), {}).copies_that_fit(HEAD) == 1


def config(**changes: Any) -> CampaignConfig:
    return load_recipe("tiny", ()).model_copy(update=changes)


# ---------------------------------------------------------------------------- refusals before a run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            ["runtime.gpus=8"],
            "runtime.gpus: sampling asks for 1 CPU and 8 GPU on one node, and the Ray of this "
            "machine has a node of",
        ),
        (
            ["runtime.trainers=4", "runtime.trainer_cpus=64"],
            "runtime.trainers: 4 trainers, which start together, ask for 64 CPU each: there is "
            "room for",
        ),
    ],
)
def test_a_run_that_this_machine_has_no_room_for_ends_before_it_begins(
    short_home: Path, changes: list[str], said: str
) -> None:
    done = erpd("run", "tiny", "--json", *sets(["runtime.cpus=1", *changes]), home=short_home)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"erpd: {said}") and line.endswith(
        "or set runtime.ray_address to a cluster that has it"
    )
    assert not (short_home / "registry.db").exists() and not (short_home / "store").exists()


def test_a_cluster_that_does_not_answer_is_said_at_once() -> None:
    from tasks.execution.ray_cluster import ensure_ray

    with socket.socket() as taken:  # no process listens on its port
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(
            ValueError,
            match=rf"^runtime\.ray_address: cannot join the Ray cluster at {address} "
            rf"\(.*refused\); see that",
        ):
            ensure_ray(RuntimeConfig(ray_address=address))
    assert time.monotonic() - began < 60, "Ray itself would retry for minutes"


def test_a_node_that_joins_late_is_waited_for(monkeypatch: pytest.MonkeyPatch):
    listed = [[HEAD], [HEAD], [HEAD, SMALL]]
    monkeypatch.setattr("tasks.execution.ray_cluster.cluster_nodes", lambda _: listed.pop(0))
    _wait_for_nodes(RuntimeConfig(ray_address=CLUSTER), 60)
    assert not listed
    listed += [[HEAD]]
    with pytest.raises(ValueError, match="has a node of 0 CPU 0 GPU; add nodes"):
        _wait_for_nodes(RuntimeConfig(ray_address=CLUSTER), 0)
