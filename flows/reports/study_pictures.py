"""The pictures of a study: which data of the registry and the store each of them shows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flows.recipes.studies import Picture
from flows.reports.campaign import training_records, validation_scores
from flows.reports.results import PolicyRow, table_rows
from flows.reports.study_table import StudyRow
from tasks.registry import Attached, IterationRecord, Registry
from tasks.store import Store

if TYPE_CHECKING:  # slow to import
    from matplotlib.figure import Figure

    from flows.reports.figures.campaign import Run
    from flows.reports.figures.study import Gained, Placed, Timeline

MEASURING = {"evaluate"}
"""Phases that only measure policies; a timeline leaves them out."""


def draw(
    wanted: Sequence[Picture],
    registry: Registry,
    store: Store,
    campaigns: Mapping[str, str],
    rows: Sequence[StudyRow],
) -> dict[Picture, bytes]:
    """The wanted pictures as PNGs; a picture without data is left out.

    **Arguments:**
        campaigns: Arm -> campaign id.
        rows: The rows of the study's table.
    """
    from flows.reports.figures import campaign as figures
    from flows.reports.figures import signal as signal_figures
    from flows.reports.figures import study as study_figures

    signals = _signals(registry, store, campaigns)
    order = list(campaigns)
    recipes: dict[Picture, Callable[[], Figure | None]] = {
        "gains": lambda: study_figures.gains(gained(rows), order),
        "score_vs_kl": lambda: study_figures.efficiency(placed(rows), order),
        "stages": lambda: study_figures.stages(_by_iteration(registry, campaigns), order),
        "time": lambda: study_figures.score_by_time(
            [timeline(registry, store, arm, campaign) for arm, campaign in campaigns.items()]
        ),
        "teacher_curves": lambda: figures.training_curves(
            _runs(registry, store, campaigns, _off_policy)
        ),
        "online_curves": lambda: figures.training_curves(
            _runs(registry, store, campaigns, _on_policy)
        ),
        "deviation": lambda: signal_figures.deviation(
            {arm: signal.get("deviation", ()) for arm, signal in signals.items()}
        ),
        "log_ratios": lambda: signal_figures.log_ratios(_teachers(signals)),
    }
    drawn = {name: recipes[name]() for name in dict.fromkeys(wanted)}
    return {name: figures.png(figure) for name, figure in drawn.items() if figure is not None}


# ----------------------------------------------------------------------------------------- policies


def gained(rows: Sequence[StudyRow]) -> list[Gained]:
    """The rows that have a gain, for the picture of gains."""
    from flows.reports.figures.study import Gained

    return [
        Gained(
            row.arm,
            row.row.name,
            row.row.role,
            row.gain.points,
            row.gain.low,
            row.gain.high,
            row.paper_gain,
        )
        for row in rows
        if row.gain
    ]


def placed(rows: Sequence[StudyRow]) -> list[Placed]:
    """The policies of the rows, for the picture of score against KL."""
    return [_placed(row.arm, row.row) for row in rows if row.row.moved]


def _placed(arm: str, row: PolicyRow) -> Placed:
    from flows.reports.figures.study import Placed

    return Placed(arm, row.role, row.iteration, row.report.kl_base, row.report.scores, row.strategy)


def _by_iteration(registry: Registry, campaigns: Mapping[str, str]) -> list[Placed]:
    """All policies of every arm, including those that arms share.

    A teacher that became the student (strategy none) is listed once.
    """
    policies = []
    for arm, campaign in campaigns.items():
        rows = table_rows(registry, campaign)
        students = {row.report.policy for row in rows if row.role == "student"}
        policies += [
            _placed(arm, row)
            for row in rows
            if row.role != "teacher" or row.report.policy not in students
        ]
    return policies


# ------------------------------------------------------------------------------------------- curves


def _off_policy(role: str) -> bool:
    return role not in ("online", "student") and not role.startswith("student ")


def _on_policy(role: str) -> bool:
    return role == "online"


def _runs(
    registry: Registry, store: Store, campaigns: Mapping[str, str], fits: Callable[[str], bool]
) -> list[Run]:
    """Training runs named by their arms; a run that several arms share is listed once."""
    from flows.reports.figures.campaign import Run

    runs: dict[str, tuple[list[str], Attached, dict[int, float], int | None]] = {}
    for arm, campaign in campaigns.items():
        attached = registry.artifacts(campaign)
        trained = [
            (place, place.role.removesuffix(" training"))
            for place in attached
            if place.role.endswith(" training")
        ]
        trained = [(place, role) for place, role in trained if fits(role)]
        several = len({place.iteration for place, _ in trained}) > 1
        chosen = {
            (row.iteration, row.policy_role): row.step
            for row in table_rows(registry, campaign)
            if row.role != "base"
        }
        for place, role in trained:
            name = " ".join(
                [
                    arm,
                    *([role] if role not in ("teacher", "online") else []),
                    *([str(place.iteration)] if several else []),
                ]
            )
            scores = validation_scores(attached, place.iteration, role)
            step = chosen.get((place.iteration, role))
            runs.setdefault(place.artifact.id, ([], place, scores, step))[0].append(name)
    return [
        Run(_joint_name(names), number, training_records(store, place.artifact.id), scores, step)
        for number, (names, place, scores, step) in enumerate(runs.values(), 1)
    ]


def _joint_name(names: Sequence[str]) -> str:
    """The name of something that several arms share."""
    return ", ".join(names) if len(names) < 3 else f"{names[0]} and {len(names) - 1} more"


# ------------------------------------------------------------------------------------------ signals


def _signals(
    registry: Registry, store: Store, campaigns: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Arm -> its signal statistics (`tasks/evaluation/signal_statistics.py`).

    If an arm measured several iterations, each has an entry, named by arm and iteration.
    """
    signals: dict[str, dict[str, Any]] = {}
    for arm, campaign in campaigns.items():
        measured = {}
        for place in registry.artifacts(campaign):
            path = store.path(place.artifact.id) / "signal.json"
            if place.role == "signal" and path.exists():
                measured[place.iteration] = json.loads(path.read_text())
        signals |= {
            f"{arm} {iteration}" if len(measured) > 1 else arm: signal
            for iteration, signal in measured.items()
        } or {arm: {}}
    return signals


def _teachers(signals: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Histograms of the teachers; one that several arms share is listed once."""
    names: dict[str, list[str]] = {}
    for arm, signal in signals.items():
        if signal.get("teacher"):
            names.setdefault(json.dumps(signal["teacher"]), []).append(arm)
    return {_joint_name(arms): json.loads(teacher) for teacher, arms in names.items()}


# --------------------------------------------------------------------------------------------- time


def timeline(registry: Registry, store: Store, arm: str, campaign: str) -> Timeline:
    """The seconds of work after which each of an arm's policies existed, counted from its base.

    Work is sampling, training, scoring, distilling and validating. The time of a stage counts in
    every arm that uses it, whichever arm computed it.
    """
    from flows.reports.figures.study import Timeline

    rows, attached = table_rows(registry, campaign), registry.artifacts(campaign)
    policies = [(0.0, _placed(arm, row)) for row in rows if row.role == "base"]
    kept: list[list[tuple[float, float]]] = []
    before = 0.0
    for iteration in registry.iterations(campaign):
        done = {
            "teacher": before + _work(iteration, ("rollouts", "teacher", "validation")),
            "student": before + _work(iteration),
        }
        here = [row for row in rows if row.iteration == iteration.index and row.moved]
        policies += [(done[row.role], _placed(arm, row)) for row in here if row.role in done]
        kept += [
            run
            for run in (_kept(store, attached, place, iteration, before) for place in attached)
            if len(run) > 1
        ]
        before = done["student"]
    return Timeline(arm, policies, kept)


def _work(iteration: IterationRecord, phases: Sequence[str] | None = None) -> float:
    """Seconds of work of an iteration: of these phases, or of all but those that only measure."""
    return sum(
        spent
        for name, spent in iteration.seconds.items()
        if name not in MEASURING and (phases is None or name in phases)
    )


def _kept(
    store: Store,
    attached: Sequence[Attached],
    place: Attached,
    iteration: IterationRecord,
    before: float,
) -> list[tuple[float, float]]:
    """Seconds and validation score of each step that an iteration's training run kept.

    The records of online steps have their times. Other steps share the run's time evenly.

    **Arguments:**
        place: An artifact of the campaign; the result is empty if it is not a training run.
        before: Seconds of work before the iteration.
    """
    role = place.role.removesuffix(" training")
    if place.iteration != iteration.index or role == place.role:
        return []
    scores = validation_scores(attached, place.iteration, role)
    if not scores:
        return []
    phases = {"online": (), "teacher": ("rollouts",)}.get(
        role, ("rollouts", "teacher", "score") if role == "student" else ("rollouts",)
    )
    began = before + _work(iteration, phases)
    times, clock = {}, 0.0
    for record in training_records(store, place.artifact.id):
        clock += record.get("seconds_rollout", 0.0) + record.get("seconds_update", 0.0)
        times[int(record["step"])] = clock
    even = (place.artifact.seconds or 0.0) / max(scores)
    return [
        (began + (times.get(step) or even * step), score) for step, score in sorted(scores.items())
    ]
