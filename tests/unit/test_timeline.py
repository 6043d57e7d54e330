"""The timeline of a campaign: made-up event files, with the numbers computed by hand."""

from __future__ import annotations

import io
import json
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread
from rich.console import Console

from deployments.output.progress_bars import Display
from erpd_core.config import RuntimeConfig, TinyProblems
from flows.reports.figures.campaign import png
from flows.reports.figures.timeline import timeline_chart
from flows.reports.timeline_bars import Bar, bars
from flows.reports.timeline_text import headline, idle_sentence, session_rows
from tasks.datasets import draw_problems
from tasks.execution.progress import session
from tasks.execution.resource_requests import actors_request, stage_request
from tasks.execution.stage import held_by, run_stage
from tasks.execution.timeline import Session, StageRun, Timeline, phase_of, read_timeline
from tasks.host.machine import cores
from tasks.rollouts.score import ScoreRollouts

HOUR = 3600.0
Events = Sequence[tuple[float, str, str | None, dict[str, Any]]]
"""Time, label, status (None for progress), further fields."""


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Timeline]:
    """Write events in order of time to a file, and read their timeline."""

    def read(*groups: Events) -> Timeline:
        path = tmp_path / "events.jsonl"
        every = sorted((event for group in groups for event in group), key=lambda event: event[0])
        with path.open("w") as file:
            for time, label, status, fields in every:
                known = {"status": status} if status else {"done": 1, "total": 2, "info": {}}
                file.write(json.dumps({"label": label, "time": time, **known, **fields}) + "\n")
        timeline = read_timeline(path)
        assert timeline is not None
        return timeline

    return read


def stage(label: str, began: float, ended: float | None, **fields: Any) -> Events:
    """A stage's events; without an end if `ended` is None."""
    start = (began, label, "started", fields)
    return [start] if ended is None else [start, (ended, label, "finished", {})]


def held(
    cpus: float, gpus: float = 0.0, node: str = "box", **nodes: tuple[float, float]
) -> dict[str, Any]:
    """The field `resource`; a machine of 4 CPUs if no nodes are given."""
    offered = nodes or {"box": (4, 0)}
    return {
        "resource": {"node": node, "pid": 7, "cpus": cpus, "gpus": gpus, "nodes": offered},
    }


def begins(time: float) -> Events:
    return [(time, "session", "begins", {"pid": 1})]


def ends(time: float) -> Events:
    return [(time, "session", "ends", {})]


def cached(label: str, time: float) -> Events:
    return [(time, label, "cached", {})]


def progress(label: str, time: float) -> Events:
    return [(time, label, None, {})]


def placed(session: Session) -> dict[str, list[tuple[str, float, float]]]:
    """Label -> node and edges of each of its bars."""
    found: dict[str, list[tuple[str, float, float]]] = {}
    for bar in bars(session):
        found.setdefault(bar.run.label, []).append((bar.node, bar.low, bar.high))
    return found


# --------------------------------------------------------------------------------------- idle time


def test_idle_is_what_no_stage_held_of_the_cpu_seconds(read: Callable[..., Timeline]):
    timeline = read(
        begins(100),
        stage("1: sample the fixed batch", 110, 130, phase="rollouts", **held(2)),
        stage("1: evaluate teacher", 120, 140, phase="evaluate", **held(2)),
        ends(150),
    )
    # 4 CPUs for 50 s; two stages hold 2 CPUs for 20 s each
    assert timeline.unit == "CPU" and timeline.seconds == 50
    (only,) = timeline.sessions
    assert (only.offered, only.busy) == (200, 80)
    assert timeline.idle == pytest.approx(0.6)
    assert (only.start_up, only.close_down) == (10, 10)
    assert timeline.start_up == timeline.close_down == pytest.approx(0.2)
    assert [(run.label, run.iteration, run.phase) for run in only.runs] == [
        ("sample the fixed batch", 1, "rollouts"),
        ("evaluate teacher", 1, "evaluate"),
    ]
    assert [(run.node, run.pid, run.cpus, run.finished) for run in only.runs] == [
        ("box", 7, 2, True)
    ] * 2
    assert idle_sentence(timeline) == (
        "Idle: 60.0 % of the CPU-seconds (20.0 % in start-up, 20.0 % in close-down, 20.0 % between "
        "stages or next to them), over 50 s on 4 CPUs."
    )


def test_gpus_count_if_any_stage_holds_one(read: Callable[..., Timeline]):
    nodes = {"head": (16, 0), "a": (96, 8), "b": (96, 8)}
    timeline = read(
        begins(0),
        stage("0: import the base model", 0, 10, **held(1, node="head", **nodes)),
        stage("1: sample the fixed batch", 10, 30, **held(8, 16, node="a", **nodes)),
        stage("1: train teacher (ce, 9 steps)", 30, 90, **held(8, 4, node="b", **nodes)),
        ends(100),
    )
    # 16 GPUs for 100 s; 16 for 20 s, 4 for 60 s; the import holds none
    (only,) = timeline.sessions
    assert timeline.unit == "GPU" and only.capacity == {"a": 8, "b": 8}
    assert (only.offered, only.busy) == (1600, 560) and timeline.idle == pytest.approx(0.65)
    assert placed(only) == {
        "import the base model": [("a", 0, 0)],
        "sample the fixed batch": [("a", 0, 8), ("b", 0, 8)],
        "train teacher (ce, 9 steps)": [("b", 0, 4)],
    }
    assert "over 100 s on 16 GPUs on 2 nodes" in idle_sentence(timeline)


def test_a_stage_cannot_hold_more_than_there_is(read: Callable[..., Timeline]):
    timeline = read(begins(0), stage("1: evaluate base", 0, 10, **held(64)), ends(20))
    assert timeline.idle == pytest.approx(0.5)


# ---------------------------------------------------------------------------------------- sessions


def test_a_killed_stage_is_cut_off_and_the_time_until_the_resume_is_no_idle_time(
    read: Callable[..., Timeline],
):
    label = "1: train teacher (ce, 40 steps)"
    timeline = read(
        begins(0),
        stage("1: sample the fixed batch", 10, 20, **held(4)),
        stage(label, 20, None, **held(4)),
        progress(label, 28),
        begins(HOUR),
        cached("1: sample the fixed batch", HOUR + 1),
        stage(label, HOUR + 5, HOUR + 25, **held(4)),
        ends(HOUR + 28),
    )
    first, second = timeline.sessions
    assert [(run.began, run.ended, run.finished) for run in first.runs] == [
        (10, 20, True),
        (20, 28, False),
    ]
    assert (first.began, first.ended, first.start_up, first.close_down) == (0, 28, 10, None)
    assert (second.seconds, second.start_up, second.close_down) == (28, 5, 3)
    assert second.cached == ((HOUR + 1, 1),)
    # 28 s each: 18 and 20 of them busy
    assert timeline.seconds == 56 and timeline.idle == pytest.approx(18 / 56)
    assert headline(timeline) == "Timeline: 56 s in 2 sessions, 32.1 % idle"
    assert "in 2 sessions, not counting the time between them" in idle_sentence(timeline)
    rows = session_rows(timeline)
    assert [(row.stages, row.cut, row.cached, row.gap) for row in rows] == [
        (1, 1, 0, ""),
        (1, 0, 1, "3572 s"),
    ]
    assert [(row.idle, row.start_up, row.close_down) for row in rows] == [
        ("35.7", "10.0", "–"),
        ("28.6", "5.0", "3.0"),
    ]


def test_a_stage_without_a_sign_of_life_is_cut_off_with_its_session(read: Callable[..., Timeline]):
    timeline = read(
        begins(0),
        stage("1: evaluate teacher", 10, None, **held(2)),
        stage("1: distil the student (S1)", 10, None, **held(2)),
        progress("1: distil the student (S1)", 34),
        ends(40),
    )
    assert {run.label: run.ended for run in timeline.sessions[0].runs} == {
        "evaluate teacher": 40,
        "distil the student (S1)": 34,
    }


def test_progress_of_a_part_is_a_sign_of_life_of_the_stage_with_the_longest_label(
    read: Callable[..., Timeline],
):
    timeline = read(
        begins(0),
        stage("1: evaluate student", 1, None),
        stage("1: evaluate student sum", 2, None),
        progress("1: evaluate student sum on test", 8),
        progress("1: evaluate student on test", 5),
    )
    assert [run.ended for run in timeline.sessions[0].runs] == [5, 8]


def test_a_stage_that_is_tried_again_is_two_runs(read: Callable[..., Timeline]):
    label = "0: evaluate base"
    timeline = read(
        begins(0),
        stage(label, 1, None, **held(4)),
        progress(label, 4),
        stage(label, 7, 12, **held(4)),
        ends(12),
    )
    runs = [(run.began, run.ended, run.finished) for run in timeline.sessions[0].runs]
    assert runs == [(1, 4, False), (7, 12, True)]
    assert timeline.idle == pytest.approx(4 / 12)


def test_a_session_that_found_everything_in_the_store_is_left_out(read: Callable[..., Timeline]):
    timeline = read(
        begins(0),
        stage("0: evaluate base", 0, 10, **held(4)),
        ends(10),
        begins(50),
        cached("0: evaluate base", 55),
        ends(90),
    )
    assert (len(timeline.sessions), timeline.seconds, timeline.idle) == (1, 10, 0)


def test_the_last_session_may_still_run(read: Callable[..., Timeline]):
    timeline = read(
        begins(0),
        stage("0: evaluate base", 2, 10, **held(4)),
        stage("1: draw prompts", 10, None, **held(1)),
        progress("1: draw prompts", 12),
    )
    (only,) = timeline.sessions
    assert (only.ended, only.close_down, only.runs[1].finished) == (12, None, False)


# --------------------------------------------------------------------------------------- old files


def test_an_old_file_has_slots_for_as_many_stages_as_ran_at_once(read: Callable[..., Timeline]):
    timeline = read(
        stage("0: draw validation", 0, 1),
        stage("1: evaluate teacher", 4, 10),
        stage("1: distil the student (S1)", 4, 20),
    )
    (only,) = timeline.sessions
    # 2 slots for 20 s; 1 + 6 + 16 s busy
    assert timeline.unit == "slot" and only.capacity == {"": 2}
    assert timeline.idle == pytest.approx(17 / 40)
    assert only.start_up is None and only.close_down is None and timeline.start_up is None
    assert idle_sentence(timeline) == "Idle: 42.5 % of the slot-seconds, over 20 s on 2 slots."
    assert [run.phase for run in only.runs] == [None, "distill", "evaluate"]


def test_in_an_old_file_a_session_begins_where_the_campaign_passes_its_stages_again(
    read: Callable[..., Timeline],
):
    timeline = read(
        stage("0: evaluate base", 0, 10),
        stage("1: draw prompts", 10, 11),
        stage("1: train teacher (ce, 40 steps)", 12, None),
        progress("1: train teacher (ce, 40 steps)", 16),
        cached("0: evaluate base", HOUR),
        cached("1: draw prompts", HOUR + 1),
        stage("1: train teacher (ce, 40 steps)", HOUR + 2, HOUR + 10),
        cached("1: draw prompts", HOUR + 10),  # an iteration begins again after a decision
        stage("1: evaluate teacher", HOUR + 10, HOUR + 12),
    )
    assert [(session.began, session.ended) for session in timeline.sessions] == [
        (0, 16),
        (HOUR, HOUR + 12),
    ]
    assert timeline.seconds == 28
    assert timeline.idle == pytest.approx((1 + 2) / 28)


def test_an_old_session_shares_the_machine_of_a_newer_one(read: Callable[..., Timeline]):
    timeline = read(
        stage("0: evaluate base", 0, 10),
        begins(HOUR),
        cached("0: evaluate base", HOUR),
        stage("1: evaluate teacher", HOUR, HOUR + 10, **held(1)),
        ends(HOUR + 10),
    )
    assert [session.idle for session in timeline.sessions] == [0, pytest.approx(0.75)]
    assert timeline.unit == "CPU" and timeline.idle == pytest.approx(0.375)


def test_without_stages_there_is_no_timeline(tmp_path: Path):
    path = tmp_path / "events.jsonl"
    assert read_timeline(path) is None
    path.write_text('{"label": "1: a note", "time": 1.0, "status": "said"}\n')
    assert read_timeline(path) is None


def test_damaged_lines_are_left_out(tmp_path: Path):
    path = tmp_path / "events.jsonl"
    lines = [
        '{"label": "0: evaluate base", "time": 1, "status": "started"}',
        '{"label": "0: evalua',
        "7",
        '{"label": "0: evaluate base"}',
        '{"label": "0: evaluate base", "time": null, "status": "finished"}',
        '{"label": "0: evaluate base", "time": 3, "status": "finished"}',
    ]
    path.write_bytes("\n".join(lines).encode() + b"\n\xff\x00\n")
    timeline = read_timeline(path)
    assert timeline is not None and timeline.seconds == 2 and timeline.idle == 0


def test_clocks_that_differ_between_nodes_give_no_negative_times(read: Callable[..., Timeline]):
    timeline = read(stage("0: evaluate base", 5, 5), stage("1: draw prompts", 5, 6))
    assert 0 <= timeline.idle <= 1


@pytest.mark.parametrize(
    ("label", "recorded", "phase"),
    [
        ("sample the fixed batch", None, "rollouts"),
        ("validate student (step 20)", "rollouts", "validation"),
        ("measure student (step 20) on validation", "evaluate", "validation"),
        ("measure what the student made of its signal", None, "score"),
        ("train recovered (ce, 60 steps)", None, "teacher"),
        ("train on policy (30 steps)", None, "online"),
        ("a stage of tomorrow", "distill", "distill"),
        ("draw validation", None, None),
    ],
)
def test_the_phase_is_in_the_event_or_in_the_label(label: str, recorded: Any, phase: str | None):
    assert phase_of(label, recorded) == phase


# --------------------------------------------------------------------------------- what is recorded


def test_a_stage_records_where_it_runs_and_what_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ERPD_HOME", str(tmp_path))
    events = tmp_path / "a.events.jsonl"
    drawing = draw_problems("prompts", TinyProblems(count=4), 7)
    with session(events):
        run_stage(drawing, RuntimeConfig(ray="off", cpus=1), "1: draw prompts", events)
    timeline = read_timeline(events)
    assert timeline is not None and timeline.unit == "CPU"
    (only,) = timeline.sessions
    (run,) = only.runs
    assert (run.node, run.pid, run.cpus, run.gpus) == (socket.gethostname(), os.getpid(), 1, 0)
    assert only.capacity == {run.node: cores()}
    assert only.begin_recorded and only.end_recorded and 0 < timeline.idle < 1


def test_what_a_stage_holds_includes_its_actors():
    score = ScoreRollouts.model_construct()
    alone = RuntimeConfig(cpus=8, gpus=2)
    assert held_by(score, alone) == stage_request(alone)
    pool = RuntimeConfig(cpus=8, gpus=2, scorers=4)
    assert held_by(score, pool) == actors_request("score", pool)
    assert actors_request("score", pool).options == {"num_cpus": 8, "num_gpus": 4}
    trainers = RuntimeConfig(cpus=8, trainers=2, trainer_cpus=3, trainer_gpus=1)
    assert actors_request("distill", trainers).options == {"num_cpus": 6, "num_gpus": 2}
    samplers = RuntimeConfig(cpus=8, gpus=1, samplers=4)
    assert actors_request("rollouts", samplers).options == {"num_cpus": 8, "num_gpus": 1}


def test_a_session_ends_however_it_ends_and_a_full_disk_does_not_matter(tmp_path: Path):
    events = tmp_path / "a.events.jsonl"
    with pytest.raises(KeyboardInterrupt), session(events):
        raise KeyboardInterrupt
    statuses = [json.loads(line)["status"] for line in events.read_text().splitlines()]
    assert statuses == ["begins", "ends"]
    with session(Path("/dev/full")):
        pass


def test_the_terminal_shows_nothing_of_sessions(tmp_path: Path):
    events, file = tmp_path / "a.events.jsonl", io.StringIO()
    display = Display({events: ""}, Console(file=file, width=100))
    with session(events):
        pass
    display._read()
    assert file.getvalue() == "" and not display.bars


# ----------------------------------------------------------------------------------------- picture


def run_of(label: str, began: float, ended: float, amount: float, node: str = "a") -> StageRun:
    return StageRun(label, 1, "score", began, ended, node=node, amount=amount)


def test_a_stage_has_the_lowest_room_that_is_free():
    runs = (
        run_of("a", 0, 10, 2),
        run_of("b", 0, 4, 1),
        run_of("c", 2, 10, 1),
        run_of("d", 4, 8, 1),
        run_of("e", 10, 12, 4),
    )
    assert placed(Session(0, 12, runs, {"a": 4.0})) == {
        "a": [("a", 0, 2)],
        "b": [("a", 2, 3)],
        "c": [("a", 3, 4)],
        "d": [("a", 2, 3)],
        "e": [("a", 0, 4)],
    }


def test_a_stage_without_room_as_a_whole_is_split():
    runs = (
        run_of("a", 0, 10, 1),
        run_of("b", 0, 10, 1),
        run_of("c", 0, 4, 1),
        run_of("gang", 1, 10, 3, node="b"),
    )
    runs = (runs[0], runs[2], runs[1], runs[3])
    assert placed(Session(0, 10, runs, {"a": 4.0, "b": 2.0}))["gang"] == [
        ("b", 0, 2),
        ("a", 3, 4),
    ]


def test_bars_never_overlap_and_their_area_is_what_is_busy(read: Callable[..., Timeline]):
    groups = [
        stage(f"{n % 5}: score {n}", 3 * n, 3 * n + 5 + n % 4, **held(1 + n % 2, box=(6, 0)))
        for n in range(40)
    ]
    (only,) = read(*groups).sessions
    drawn = bars(only)
    for place, bar in enumerate(drawn):
        assert 0 <= bar.low < bar.high <= 6
        assert not [other for other in drawn[:place] if overlap(bar, other)]
    area = sum(bar.run.seconds * (bar.high - bar.low) for bar in drawn)
    assert area == pytest.approx(sum(run.seconds * run.amount for run in only.runs))
    assert only.idle == pytest.approx(1 - area / only.offered)


def overlap(bar: Bar, other: Bar) -> bool:
    return (
        bar.run.began < other.run.ended
        and other.run.began < bar.run.ended
        and bar.low < other.high
        and other.low < bar.high
    )


@pytest.mark.parametrize("hostile", ["plain", "$x_{", "‮\u200b<b>"])
def test_the_picture_is_drawn_and_the_same_each_time(
    read: Callable[..., Timeline], hostile: str, recwarn: pytest.WarningsRecorder
):
    nodes = {hostile: (8, 2), "other": (8, 2)}
    timeline = read(
        begins(0),
        stage("0: draw validation", 5, 8, **held(1, node=hostile, **nodes)),
        stage(f"1: score {hostile}", 10, 90, **held(2, 1, node=hostile, **nodes)),
        stage("1: train teacher (ce, 40 steps)", 90, None, **held(2, 3, node="other", **nodes)),
        progress("1: train teacher (ce, 40 steps)", 140),
        begins(9 * HOUR),
        cached("0: draw validation", 9 * HOUR + 2),
        stage("2: evaluate student", 9 * HOUR + 20, 11 * HOUR, **held(2, 2, **nodes)),
        ends(12 * HOUR),
    )
    image = png(timeline_chart(timeline))
    assert image == png(timeline_chart(timeline))
    height, width, _ = imread(io.BytesIO(image), format="png").shape
    assert width == 1584 and height > 300
    drawing = [str(each.message) for each in recwarn if issubclass(each.category, UserWarning)]
    assert not drawing, "such as a letter that the font does not have"


def test_a_long_campaign_and_a_short_one_have_a_picture(read: Callable[..., Timeline]):
    long = [
        stage(f"{n}: train teacher (ce, 9 steps)", n * HOUR, n * HOUR + 3000, **held(4))
        for n in range(300)
    ]
    assert png(timeline_chart(read(*long)))
    assert png(timeline_chart(read(stage("0: draw validation", 1, 1))))
