"""The timeline of a campaign, read from its events: which stage ran when and where, and idle time.

The idle share is the part of the resource-seconds that no stage held. A stage holds what it (or its
actors) requests, from its `started` event to its end. What is offered are the CPUs of all nodes
over the seconds of all sessions, or their GPUs if any stage holds one. Start-up and close-down are
idle; the time between two sessions does not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from erpd_core.schedule import Phase
from tasks.execution.progress import SESSION, read_events

Unit = Literal["CPU", "GPU", "slot"]
"""What is counted. A slot is room for one stage, in files that do not say what stages hold."""
FIRST_WORDS: dict[str, Phase] = {
    "validate": "validation",
    "race": "validation",
    "compare": "validation",
    "sample": "rollouts",
    "score": "score",
    "measure what": "score",
    "train on policy": "online",
    "train": "teacher",
    "distil": "distill",
    "evaluate": "evaluate",
}
"""Beginning of a stage's label -> its phase."""


@dataclass(frozen=True)
class StageRun:
    """One run of a stage.

    **Example:** `StageRun("distil the student (S1)", 1, "distill", 100.0, 160.0, amount=2.0)`
    """

    label: str
    """Its label, without the iteration."""
    iteration: int | None
    """0 is the base; None if the label has no iteration."""
    phase: Phase | None
    """None for drawing problems and importing a model."""
    began: float
    """Seconds since the epoch."""
    ended: float
    """Seconds since the epoch. If it did not finish, its last sign of life; if it never gave one,
    that of its session.
    """
    finished: bool = True
    """False if it was killed, failed, or still ran when the file was read."""
    node: str = ""
    """The machine; empty if the file does not say it."""
    pid: int | None = None
    cpus: float = 0.0
    gpus: float = 0.0
    amount: float = 1.0
    """What it holds, in the timeline's unit."""

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@dataclass(frozen=True)
class Session:
    """A part of a campaign that ran without interruption: from a start to an end, stop or kill.

    **Example:** `Session(began=100.0, ended=190.0, runs=(run,), capacity={"host": 2.0})`
    """

    began: float
    """Seconds since the epoch."""
    ended: float
    """Seconds since the epoch. Its last event if it was killed or still runs."""
    runs: tuple[StageRun, ...]
    """In the order in which they began."""
    capacity: Mapping[str, float]
    """Node -> what it offers, in the timeline's unit."""
    cached: tuple[tuple[float, int | None], ...] = ()
    """When results were found in the store, and in which iteration."""
    begin_recorded: bool = False
    """Whether `began` is the start of the campaign's flow; otherwise it is the first event."""
    end_recorded: bool = False
    """Whether `ended` is the end of the campaign's flow; otherwise it is the last event."""

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    @property
    def offered(self) -> float:
        """Resource-seconds, in the timeline's unit times seconds."""
        return self.seconds * sum(self.capacity.values())

    @property
    def busy(self) -> float:
        """Resource-seconds that stages held; at most those that are offered."""
        return min(self.offered, sum(run.seconds * run.amount for run in self.runs))

    @property
    def idle(self) -> float:
        """Share of the resource-seconds that no stage held, from 0 to 1."""
        return 1.0 - self.busy / self.offered if self.offered > 0 else 0.0

    @property
    def start_up(self) -> float | None:
        """Seconds until the first stage began; None if the start is not known."""
        return min(run.began for run in self.runs) - self.began if self.begin_recorded else None

    @property
    def close_down(self) -> float | None:
        """Seconds after the last stage ended; None if the end is not known."""
        return self.ended - max(run.ended for run in self.runs) if self.end_recorded else None


@dataclass(frozen=True)
class Timeline:
    """The sessions of a campaign in which at least one stage ran.

    **Example:** `Timeline((session,), "CPU").idle`
    """

    sessions: tuple[Session, ...]
    unit: Unit

    @property
    def seconds(self) -> float:
        """Length of all sessions, without the time between them."""
        return sum(session.seconds for session in self.sessions)

    @property
    def idle(self) -> float:
        """Share of the resource-seconds of all sessions that no stage held, from 0 to 1."""
        offered = sum(session.offered for session in self.sessions)
        busy = sum(session.busy for session in self.sessions)
        return 1.0 - busy / offered if offered > 0 else 0.0

    @property
    def start_up(self) -> float | None:
        """Share of the resource-seconds in start-up, a part of `idle`; None if unknown."""
        return self._share([session.start_up for session in self.sessions])

    @property
    def close_down(self) -> float | None:
        """Share of the resource-seconds in close-down, a part of `idle`; None if unknown."""
        return self._share([session.close_down for session in self.sessions])

    def _share(self, seconds: Sequence[float | None]) -> float | None:
        known = [
            spent * session.offered / session.seconds
            for session, spent in zip(self.sessions, seconds, strict=True)
            if spent is not None and session.seconds > 0
        ]
        return sum(known) / sum(session.offered for session in self.sessions) if known else None


def read_timeline(events: Path) -> Timeline | None:
    """The timeline of a campaign; None if there is no file or no stage has run.

    Events say when sessions begin and end. Where a file lacks them, a session begins when a stage
    of iteration 0 appears that has finished or was found in the store before, because every start
    of a campaign passes through all of its stages.

    **Arguments:**
        events: File of the campaign's events.
    """
    reader = _Reader()
    for event in read_events(events):
        if isinstance(event, dict) and isinstance(event.get("time"), float | int):
            reader.read(event)
    reader.close()
    read = [session for session in reader.sessions if session.runs]
    return _counted(read) if read else None


# ------------------------------------------------------------------------------------------- events


@dataclass
class _Open:
    """A stage that has not finished."""

    run: StageRun
    sign: float
    """Time of its last event."""


@dataclass
class _Session:
    """The session that is being read."""

    began: float
    last: float
    recorded: bool
    ended: bool = False
    open: dict[str, _Open] = field(default_factory=dict)
    runs: list[StageRun] = field(default_factory=list)
    cached: list[tuple[float, int | None]] = field(default_factory=list)
    done: set[str] = field(default_factory=set)
    """Labels of the stages that finished or were found in the store."""
    nodes: dict[str, tuple[float, float]] = field(default_factory=dict)


class _Reader:
    """Turns events into sessions, one after the other."""

    def __init__(self) -> None:
        self.sessions: list[_Session] = []
        self.current: _Session | None = None

    def read(self, event: Mapping[str, Any]) -> None:
        label, time, status = str(event.get("label")), event["time"], event.get("status")
        if label == SESSION:
            self._mark(status, time)
            return
        if self._is_new(label, status):
            self.close()
        if self.current is None:
            self.current = _Session(time, time, recorded=False)
        session = self.current
        session.last = max(session.last, time)
        if status == "started":
            self._start(label, time, event)
        elif status == "finished" and label in session.open:
            run = session.open.pop(label).run
            session.runs.append(replace(run, ended=max(run.began, time)))
            session.done.add(label)
        elif status == "cached":
            session.cached.append((time, _split(label)[0]))
            session.done.add(label)
        else:
            # The longest label, because one stage's label may be the beginning of another's.
            named = max(
                (name for name in session.open if label.startswith(name)), key=len, default=""
            )
            if named:
                session.open[named].sign = max(session.open[named].sign, time)

    def close(self) -> None:
        """End the current session; stages that it did not finish are cut off."""
        if self.current is None:
            return
        for label in list(self.current.open):
            self._cut(label)
        self.current.runs.sort(key=lambda run: (run.began, run.label))
        self.sessions.append(self.current)
        self.current = None

    def _mark(self, status: object, time: float) -> None:
        if status == "begins":
            self.close()
            self.current = _Session(time, time, recorded=True)
        elif self.current is not None:
            self.current.last = max(self.current.last, time)
            self.current.ended = True

    def _is_new(self, label: str, status: object) -> bool:
        """Whether this event begins a session that has no event for its begin."""
        if self.current is None or status not in ("started", "cached"):
            return False
        repeated = label in self.current.done and _split(label)[0] == 0
        return self.current.ended or (repeated and not self.current.recorded)

    def _start(self, label: str, time: float, event: Mapping[str, Any]) -> None:
        assert self.current is not None
        if label in self.current.open:  # tried again
            self._cut(label)
        iteration, name = _split(label)
        where = event.get("resource") or {}
        for node, (cpus, gpus) in where.get("nodes", {}).items():
            before = self.current.nodes.get(node, (0.0, 0.0))
            self.current.nodes[node] = max(before[0], cpus), max(before[1], gpus)
        run = StageRun(
            name,
            iteration,
            phase_of(name, event.get("phase")),
            time,
            time,
            node=where.get("node", ""),
            pid=where.get("pid"),
            cpus=where.get("cpus", 0.0),
            gpus=where.get("gpus", 0.0),
        )
        self.current.open[label] = _Open(run, time)

    def _cut(self, label: str) -> None:
        assert self.current is not None
        stage = self.current.open.pop(label)
        ended = stage.sign if stage.sign > stage.run.began else self.current.last
        self.current.runs.append(replace(stage.run, ended=ended, finished=False))


def _split(label: str) -> tuple[int | None, str]:
    """The iteration of a label, and the rest of it."""
    iteration, separator, name = label.partition(": ")
    return (int(iteration), name) if separator and iteration.isdecimal() else (None, label)


def phase_of(name: str, recorded: Phase | None = None) -> Phase | None:
    """The phase of a stage; None for drawing problems and importing a model.

    Validation is a phase of its own, but its stages are those that sample and evaluate. Only their
    labels differ.

    **Arguments:**
        name: The stage's label, without the iteration.
        recorded: The phase in its event, if any.
    """
    if name.startswith("validate") or name.endswith("on validation"):
        return "validation"
    first = next((phase for word, phase in FIRST_WORDS.items() if name.startswith(word)), None)
    return recorded or first


# -------------------------------------------------------------------------------------------- units


def _counted(sessions: Sequence[_Session]) -> Timeline:
    """The timeline in its unit: what stages hold, and what the nodes offer."""
    known = [session for session in sessions if session.nodes]
    on_gpus = any(run.gpus > 0 for session in known for run in session.runs)
    unit: Unit = "slot" if not known else "GPU" if on_gpus else "CPU"
    counted = []
    for session in sessions:
        # A session without records has the nodes of another one.
        nodes = session.nodes or (known[0].nodes if known else {})
        capacity = {name: node[on_gpus] for name, node in nodes.items() if node[on_gpus] > 0}
        if session.nodes:
            total = sum(capacity.values())
            held = [min(run.gpus if on_gpus else run.cpus, total) for run in session.runs]
            runs = [replace(run, amount=amount) for run, amount in zip(session.runs, held)]
        else:
            runs, capacity = _shared(session.runs, capacity)
        counted.append(
            Session(
                session.began,
                session.last,
                tuple(runs),
                capacity,
                tuple(session.cached),
                begin_recorded=session.recorded,
                end_recorded=session.ended,
            )
        )
    return Timeline(tuple(counted), unit)


def _shared(
    runs: Sequence[StageRun], capacity: Mapping[str, float]
) -> tuple[list[StageRun], dict[str, float]]:
    """Stages that do not say what they held, and the node that they share equally.

    It has room for as many of them as ran at the same time.

    **Arguments:**
        capacity: Nodes to choose the largest from; if empty, each stage holds one slot.
    """
    most = _most_at_once(runs)
    node = max(capacity, key=lambda name: capacity[name], default="")
    total = capacity.get(node, float(most))
    return [replace(run, node=node, amount=total / most) for run in runs], {node: total}


def _most_at_once(runs: Iterable[StageRun]) -> int:
    """The largest number of stages that ran at the same time; at least 1."""
    changes = sorted(change for run in runs for change in ((run.began, 1), (run.ended, -1)))
    most = running = 0
    for _, change in changes:
        running += change
        most = max(most, running)
    return max(1, most)
