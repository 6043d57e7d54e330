"""The bars of a timeline's picture: which part of a node each stage is shown on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tasks.execution.timeline import Session, StageRun


@dataclass(frozen=True)
class Bar:
    """A rectangle of the chart. A stage whose resources are not adjacent has several."""

    run: StageRun
    node: str
    low: float
    """Lower edge, in the timeline's unit from the node's first one."""
    high: float


def bars(session: Session) -> list[Bar]:
    """The bars of a session: each stage in the lowest free room of its node.

    A stage that has no room there as a whole (actors may work on other nodes) is split over the
    free rooms of all nodes. What exceeds all of them is not drawn.
    """
    placed: list[Bar] = []
    working: list[Bar] = []
    for run in session.runs:
        working = [bar for bar in working if bar.run.ended > run.began]
        nodes = sorted(session.capacity, key=lambda node: node != run.node)
        rooms = [
            (node, low, high)
            for node in nodes
            for low, high in _free(session.capacity[node], [b for b in working if b.node == node])
        ]
        whole = [room for room in rooms if room[0] == nodes[0] and room[2] - room[1] >= run.amount]
        here, left = [], run.amount
        for node, low, high in whole[:1] or rooms:
            taken = min(left, high - low)
            if taken > 0:
                here.append(Bar(run, node, low, low + taken))
            left -= taken
        if nodes and not here:  # holds nothing that is counted, or clocks of nodes differ
            here.append(Bar(run, nodes[0], 0.0, run.amount))
        working += here
        placed += here
    return placed


def _free(capacity: float, taken: Iterable[Bar]) -> list[tuple[float, float]]:
    """The parts of a node that no bar covers, from the lowest."""
    rooms, low = [], 0.0
    for bar in sorted(taken, key=lambda bar: bar.low):
        if bar.low > low:
            rooms.append((low, bar.low))
        low = max(low, bar.high)
    return [*rooms, (low, capacity)] if low < capacity else rooms
