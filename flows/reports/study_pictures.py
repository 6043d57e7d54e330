"""From the registry and the store to a study's pictures: which policies, records and histograms
each of them shows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flows.recipes.studies import Picture
from flows.reports.campaign import training_records, validation_scores
from flows.reports.results import PolicyRow, table_rows
from flows.reports.study_table import StudyRow
from tasks.registry import Attached, Iteration, Registry
from tasks.store import Store

if TYPE_CHECKING:  # slow to import
    from matplotlib.figure import Figure

    from flows.reports.figures.campaign import Run
    from flows.reports.figures.study import Gained, Placed, Timeline

MEASURING = {"evaluate"}
"""Phases that only measure: no policy needs them."""


def draw(
    wanted: Sequence[Picture],
    registry: Registry,
    store: Store,
    campaigns: Mapping[str, str],
    listed: Sequence[StudyRow],
) -> dict[Picture, bytes]:
    """The wanted pictures as PNGs, without those that there is no data for."""
    from flows.reports.figures import campaign as figures
    from flows.reports.figures import signal as signal_figures
    from flows.reports.figures import study as study_figures

    signals = _signals(registry, store, campaigns)
    order = list(campaigns)
    recipes: dict[Picture, Callable[[], Figure | None]] = {
        "gains": lambda: study_figures.gains(gained(listed), order),
        "score_vs_kl": lambda: study_figures.efficiency(placed(listed), order),
        "stages": lambda: study_figures.stages(_by_iteration(registry, campaigns), order),
        "time": lambda: study_figures.score_by_time(
            [timeline(registry, store, arm, one) for arm, one in campaigns.items()]
        ),
        "teacher_curves": lambda: figures.training_curves(
            _runs(registry, store, campaigns, _off_policy)
        ),
        "online_curves": lambda: figures.training_curves(
            _runs(registry, store, campaigns, _on_policy)
        ),
        "deviation": lambda: signal_figures.deviation(
            {arm: found.get("deviation", ()) for arm, found in signals.items()}
        ),
        "log_ratios": lambda: signal_figures.log_ratios(_teachers(signals)),
    }
    drawn = {name: recipes[name]() for name in dict.fromkeys(wanted)}
    return {name: figures.png(figure) for name, figure in drawn.items() if figure is not None}


# ----------------------------------------------------------------------------------------- policies


def gained(listed: Sequence[StudyRow]) -> list[Gained]:
    from flows.reports.figures.study import Gained

    return [
        Gained(
            one.arm,
            one.row.name,
            one.row.role,
            one.gain.points,
            one.gain.low,
            one.gain.high,
            one.paper_gain,
        )
        for one in listed
        if one.gain
    ]


def placed(listed: Sequence[StudyRow]) -> list[Placed]:
    return [_placed(one.arm, one.row) for one in listed if one.row.moved]


def _placed(arm: str, row: PolicyRow) -> Placed:
    from flows.reports.figures.study import Placed

    return Placed(arm, row.role, row.iteration, row.report.kl_base, row.report.scores, row.strategy)


def _by_iteration(registry: Registry, campaigns: Mapping[str, str]) -> list[Placed]:
    """Every arm's own line, also through policies it shares; a teacher that became the student
    (strategy none) stands once.
    """
    found = []
    for arm, campaign in campaigns.items():
        rows = table_rows(registry, campaign)
        students = {row.report.policy for row in rows if row.role == "student"}
        found += [
            _placed(arm, row)
            for row in rows
            if row.role != "teacher" or row.report.policy not in students
        ]
    return found


# ------------------------------------------------------------------------------------------- curves


def _off_policy(role: str) -> bool:
    return role not in ("online", "student") and not role.startswith("student ")


def _on_policy(role: str) -> bool:
    return role == "online"


def _runs(
    registry: Registry, store: Store, campaigns: Mapping[str, str], fits: Callable[[str], bool]
) -> list[Run]:
    """Training runs named by their arms; one that several arms share stands once."""
    from flows.reports.figures.campaign import Run

    found: dict[str, tuple[list[str], Attached, dict[int, float], int | None]] = {}
    for arm, campaign in campaigns.items():
        attached = registry.artifacts(campaign)
        trained = [
            (one, one.role.removesuffix(" training"))
            for one in attached
            if one.role.endswith(" training")
        ]
        trained = [(one, role) for one, role in trained if fits(role)]
        several = len({one.iteration for one, _ in trained}) > 1
        chosen = {
            (row.iteration, row.policy_role): row.step
            for row in table_rows(registry, campaign)
            if row.role != "base"
        }
        for one, role in trained:
            name = " ".join(
                [
                    arm,
                    *([role] if role not in ("teacher", "online") else []),
                    *([str(one.iteration)] if several else []),
                ]
            )
            scores = validation_scores(attached, one.iteration, role)
            found.setdefault(one.artifact.id, ([], one, scores, chosen.get((one.iteration, role))))[
                0
            ].append(name)
    return [
        Run(_together(names), number, training_records(store, one.artifact.id), scores, step)
        for number, (names, one, scores, step) in enumerate(found.values(), 1)
    ]


def _together(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) < 3 else f"{names[0]} and {len(names) - 1} more"


# ------------------------------------------------------------------------------------------ signals


def _signals(
    registry: Registry, store: Store, campaigns: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """What each arm's students made of their signals (`tasks/evaluation/signal_statistics.py`):
    by arm, and by iteration where an arm measured several.
    """
    found: dict[str, dict[str, Any]] = {}
    for arm, campaign in campaigns.items():
        measured = {}
        for one in registry.artifacts(campaign):
            path = store.path(one.artifact.id) / "signal.json"
            if one.role == "signal" and path.exists():
                measured[one.iteration] = json.loads(path.read_text())
        found |= {
            f"{arm} {iteration}" if len(measured) > 1 else arm: signal
            for iteration, signal in measured.items()
        } or {arm: {}}
    return found


def _teachers(signals: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Histograms of the teachers; one that several arms share stands once."""
    names: dict[str, list[str]] = {}
    for arm, found in signals.items():
        if found.get("teacher"):
            names.setdefault(json.dumps(found["teacher"]), []).append(arm)
    return {_together(arms): json.loads(teacher) for teacher, arms in names.items()}


# --------------------------------------------------------------------------------------------- time


def timeline(registry: Registry, store: Store, arm: str, campaign: str) -> Timeline:
    """When an arm's policies were there, in seconds of work since its base: sampling, training,
    scoring, distilling, validating.

    What a stage cost counts in every arm that uses it, in whichever it was worked out.
    """
    from flows.reports.figures.study import Timeline

    rows, attached = table_rows(registry, campaign), registry.artifacts(campaign)
    policies = [(0.0, _placed(arm, row)) for row in rows if row.role == "base"]
    kept: list[list[tuple[float, float]]] = []
    before = 0.0
    for one in registry.iterations(campaign):
        done = {
            "teacher": before + _work(one, ("rollouts", "teacher", "validation")),
            "student": before + _work(one),
        }
        here = [row for row in rows if row.iteration == one.index and row.moved]
        policies += [(done[row.role], _placed(arm, row)) for row in here if row.role in done]
        kept += [
            run
            for run in (_kept(store, attached, training, one, before) for training in attached)
            if len(run) > 1
        ]
        before = done["student"]
    return Timeline(arm, policies, kept)


def _work(iteration: Iteration, phases: Sequence[str] | None = None) -> float:
    return sum(
        spent
        for name, spent in iteration.seconds.items()
        if name not in MEASURING and (phases is None or name in phases)
    )


def _kept(
    store: Store, attached: Sequence[Attached], one: Attached, iteration: Iteration, before: float
) -> list[tuple[float, float]]:
    """Seconds and validation score of the steps an iteration's training run kept. Online steps
    carry their times; others share evenly.
    """
    role = one.role.removesuffix(" training")
    if one.iteration != iteration.index or role == one.role:
        return []
    scores = validation_scores(attached, one.iteration, role)
    if not scores:
        return []
    phases = {"online": (), "teacher": ("rollouts",)}.get(
        role, ("rollouts", "teacher", "score") if role == "student" else ("rollouts",)
    )
    began = before + _work(iteration, phases)
    times, clock = {}, 0.0
    for record in training_records(store, one.artifact.id):
        clock += record.get("seconds_rollout", 0.0) + record.get("seconds_update", 0.0)
        times[int(record["step"])] = clock
    even = (one.artifact.seconds or 0.0) / max(scores)
    return [
        (began + (times.get(step) or even * step), score) for step, score in sorted(scores.items())
    ]
