"""Stages that several flows request at once, requests to Ray, and a benchmark's working time."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers import World
from rich.console import Console

from benchmarks.overhead import Span, covered, spans
from deployments.output.progress_bars import Display
from erpd_core.config import RuntimeConfig, SamplingConfig
from flows.steps.recorder import allow_stages, cancel_all, run_once
from tasks.execution.progress import Progress
from tasks.execution.ray_cluster import max_concurrent_stages
from tasks.execution.resource_requests import ResourceRequest, local_cpus
from tasks.execution.submit import request_for
from tasks.rollouts import SampleRollouts


class Submitted(Future[str]):
    """The future of a Prefect task, and also the one that it wraps."""

    @property
    def wrapped_future(self) -> Future[str]:
        return self


def test_what_two_flows_ask_for_at_once_is_worked_out_once():
    future = Submitted()
    submitted: list[int] = []

    def submit(number: int) -> Submitted:
        submitted.append(number)
        return future

    answers = [run_once("teacher-1", lambda number=number: submit(number)) for number in range(3)]  # type: ignore[misc]
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(answer) for answer in answers]
        future.set_result("the teacher")
        assert [pending.result(timeout=10) for pending in waiting] == ["the teacher"] * 3
    assert submitted == [0]
    assert run_once("teacher-1", lambda: submit(9))() == "the teacher"
    assert submitted == [0, 9], "a finished result is forgotten here: the store has it"


def test_a_failure_meets_everyone_who_waits_and_is_forgotten():
    broken = Submitted()
    broken.set_exception(OSError("the disk is full"))
    answers = [run_once("teacher-2", lambda: broken) for _ in range(2)]
    for answer in answers:
        with pytest.raises(OSError, match="full"):
            answer()
    healthy = Submitted()
    healthy.set_result("the teacher")
    assert run_once("teacher-2", lambda: healthy)() == "the teacher"


def test_after_an_interrupt_nothing_more_is_asked_for():
    cancel_all()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_once("teacher-3", Future)
    finally:
        allow_stages()


def test_an_interrupt_wakes_who_waits_for_an_answer_that_will_not_come():
    wait = run_once("teacher-4", Submitted)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait)
        cancel_all()
        try:
            with pytest.raises(KeyboardInterrupt):
                waiting.result(timeout=10)
        finally:
            allow_stages()


def test_a_local_ray_has_the_whole_machine_and_a_stage_its_share(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2, 3})
    assert [local_cpus(RuntimeConfig(cpus=cpus)) for cpus in (1, 3, 8, None)] == [4, 4, 8, 4]
    assert [max_concurrent_stages(RuntimeConfig(cpus=cpus)) for cpus in (1, 2, 3, 8, None)] == [
        4,
        2,
        1,
        1,
        1,
    ]
    assert max_concurrent_stages(RuntimeConfig(cpus=1, ray="off")) == 1


def test_each_stage_says_what_it_needs(world: World):
    sampling = SampleRollouts(
        policy=world.base, problems=world.problems, sampling=SamplingConfig(), seed=1
    )
    from erpd_core.config import TinyProblems
    from tasks.datasets import draw_problems

    drawing = draw_problems("prompts", TinyProblems(count=4), 1)
    runtime = RuntimeConfig(cpus=4, gpus=1.0)
    assert request_for(sampling, runtime) == ResourceRequest(4, 1.0)
    assert request_for(drawing, runtime) == ResourceRequest(1, 0.0), (
        "no GPU is held while problems are drawn"
    )
    assert request_for(sampling, runtime.model_copy(update={"samplers": 2})) == ResourceRequest(
        0, 0.0
    )


def test_time_at_work_counts_a_second_once():
    """Stages from 0 to 10, from 4 to 6 and from 20 to 21 cover 11 seconds."""
    assert covered([Span("a", 4, 6), Span("b", 0, 10), Span("c", 20, 21)]) == 11
    events = [
        {"label": "a", "time": 1.0, "status": "started"},
        {"label": "b", "time": 2.0, "status": "started"},
        {"label": "a", "time": 3.0, "done": 1, "total": 2},
        {"label": "a", "time": 5.0, "status": "finished"},
        {"label": "c", "time": 5.0, "status": "cached"},
        {"label": "b", "time": 6.0, "status": "finished"},
    ]
    assert spans(events) == [Span("a", 1.0, 5.0), Span("b", 2.0, 6.0)]


def test_lines_of_arms_that_run_side_by_side_stand_under_their_own_heading(tmp_path: Path):
    """Both arms train a teacher at the same time, under the same label."""
    console = Console(file=(tmp_path / "screen").open("w"), width=100)
    paths = {name: tmp_path / f"{name}.jsonl" for name in ("first", "second")}
    display = Display({path: name for name, path in paths.items()}, console)
    both_started = threading.Barrier(2)

    def arm(name: str) -> None:
        progress = Progress(paths[name], "1: train")
        progress.event(status="started")
        both_started.wait(timeout=10)
        progress(3, 10, loss=1.0)
        progress.event(status="finished")

    with display, ThreadPoolExecutor(2) as pool:
        list(pool.map(arm, paths))
    assert not display.bars and not display.progress.tasks, (
        "no bar is left, and none was made twice"
    )
    console.file.close()
    lines = [
        line.strip() for line in (tmp_path / "screen").read_text().splitlines() if line.strip()
    ]
    assert [line.partition("(")[0].split() for line in lines] == [
        ["first"],
        ["done", "1:", "train"],
        ["second"],
        ["done", "1:", "train"],
    ]
