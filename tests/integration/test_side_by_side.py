"""Independent stages run at the same time if Ray has capacity.

The results stay the same, and shared stages run once.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import Campaign, events, no_process_left, numbers, run_campaign

from flows.reports.timeline_bars import bars
from tasks.execution.timeline import read_timeline
from tasks.host.machine import cores

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.ray]

STUDY = """
description: Three students of one teacher, in miniature.
pictures: [gains]
common:
  iterations: 1
  decision: {fixed: [S1], teacher: always}
  prompts: {count: 32}
  sampling: {samples: 8, shard: 16}
  teacher: {loss: {kind: ce, beta: 0.05}, minibatch: 64, steps: 40, keep: [20]}
  weak_teacher: {minibatch: 64, steps: 40, keep: [], unlearn_step: 20}
  distill: {minibatch: 64, steps: 20, keep: [], kl_budget_of_teacher: null, select: last}
  evaluation:
    validation: {count: 16}
    validation_sampling: {samples: 4, shard: 16}
    benchmarks: {test: {count: 16}}
    sampling: {samples: 4, shard: 16}
scales:
  tiny: {runtime: {ray: "PLACE", cpus: 1}}
arms:
  - {name: slow, set: {distill: {optimizer: {lr: 5.0e-5}}}}
  - {name: fast, set: {distill: {optimizer: {lr: 2.0e-4}}}}
  - {name: weak, set: {decision: {fixed: [S2]}, distill: {S2: [{signal: {numerator: weak, denominator: unlearned}}]}}}
"""  # noqa: E501


def run(folder: Path, place: str) -> Campaign:
    (folder / "students.yaml").write_text(STUDY.replace("PLACE", place))
    return run_campaign(
        folder, arguments=["run", str(folder / "students.yaml"), "--json"], timeout=550
    )


@pytest.fixture(scope="module")
def on_ray() -> Iterator[Campaign]:
    with tempfile.TemporaryDirectory(prefix="e-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield run(Path(folder), "on")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """The same study without Ray, one stage after the other in the command's process."""
    return run(tmp_path_factory.mktemp("alone"), "off")


def at_work(study: Campaign) -> list[tuple[str, str, float, float]]:
    """(campaign, label, began, ended) of every stage that was computed."""
    stages = []
    for path in sorted((study.home / "logs").glob("*.events.jsonl")):
        campaign, began = path.name.removesuffix(".events.jsonl"), {}
        for event in events(study.home, campaign):
            if event.get("status") == "started":
                began[event["label"]] = event["time"]
            elif event.get("status") == "finished":
                stages.append((campaign, event["label"], began[event["label"]], event["time"]))
    return stages


def pairs_at_once(
    stages: list[tuple[str, str, float, float]],
) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """(campaign, label) of each two stages that ran at the same time."""
    return [
        (stage[:2], other[:2])
        for index, stage in enumerate(stages)
        for other in stages[index + 1 :]
        if max(stage[2], other[2]) < min(stage[3], other[3])
    ]


def without_names(result: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value for key, value in numbers(result).items() if key not in ("recipe", "tracked")
    }


def test_a_study_comes_to_the_same_on_two_places_as_on_one(on_ray: Campaign, alone: Campaign):
    assert without_names(on_ray.result) == without_names(alone.result)


def test_independent_stages_are_at_work_at_the_same_time(on_ray: Campaign, alone: Campaign):
    together = pairs_at_once(at_work(on_ray))
    assert [pair for pair in together if pair[0][0] != pair[1][0]], "two arms"
    assert [pair for pair in together if pair[0][0] == pair[1][0]], "two stages of one arm"
    assert pairs_at_once(at_work(alone)) == []


def test_never_more_at_once_than_there_is_room(on_ray: Campaign):
    moments = sorted(
        [(began, 1) for *_, began, _ in at_work(on_ray)]
        + [(ended, -1) for *_, ended in at_work(on_ray)]
    )
    running = most = 0
    for _, change in moments:
        running += change
        most = max(most, running)
    assert 2 <= most <= (os.cpu_count() or 1), "at most one stage per processor"


def test_the_timeline_shows_the_stages_of_each_arm_on_the_cpus_of_this_machine(on_ray: Campaign):
    for path in (on_ray.home / "logs").glob("*.events.jsonl"):
        timeline = read_timeline(path)
        assert timeline is not None and timeline.unit == "CPU" and 0 < timeline.idle < 1
        (session,) = timeline.sessions
        assert session.capacity == {socket.gethostname(): cores()}
        assert session.start_up is not None and session.close_down is not None
        assert {(run.node, run.amount) for run in session.runs} == {(socket.gethostname(), 1)}
        assert all(run.finished and run.pid for run in session.runs)
        assert all(0 <= bar.low < bar.high <= cores() for bar in bars(session))


def test_what_arms_share_is_worked_out_once(on_ray: Campaign):
    done = Counter(label for _, label, _, _ in at_work(on_ray))
    for shared in (
        "1: sample the fixed batch",
        "1: train teacher (ce, 40 steps)",
        "1: score the batch under old",
        "0: evaluate base",
    ):
        assert done[shared] == 1, done


def test_no_process_stays(on_ray: Campaign):
    assert no_process_left(on_ray.home) == []
