"""The report of a study as one self-contained HTML page, and the page of score against KL.

Policies are shown next to the paper's numbers. Results are read from the registry, curves and
histograms from the store, so the report of an incomplete study shows what exists. The same data
gives the same bytes. Nothing here imports torch.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args
from urllib.parse import quote

from erpd_core.config.flat import flatten
from flows.recipes.load import setting_text
from flows.recipes.paper import PaperTable, load_paper
from flows.recipes.studies import Arm, Picture, Study
from flows.reports.campaign import write_page
from flows.reports.results import benchmarks_of
from flows.reports.study_pictures import draw, placed
from flows.reports.study_table import (
    StudyRow,
    gain_words,
    per_nat_words,
    signal_of,
    signed,
    study_rows,
)
from tasks.registry import CampaignRecord, Registry
from tasks.store import Store

CAPTIONS: dict[Picture, tuple[str, str]] = {
    "gains": (
        "Gains over the base",
        "Points over the base, mean over the benchmarks, with a 95 % interval that treats the "
        "two scores as independent. Hollow diamonds: the paper's gain over its own base, "
        "on its models and benchmarks.",
    ),
    "score_vs_kl": (
        "Score against KL",
        "Score against distance from the base: up and to the left is better. Policies that arms "
        "share are shown once. Bars: 95 % interval.",
    ),
    "stages": (
        "Score by iteration",
        "One line per arm, through the base and its students. The label of a student is the "
        "strategy of its iteration. Teachers are hollow.",
    ),
    "time": (
        "Score against time",
        "Seconds of sampling, training, scoring, distilling and validating until a policy "
        "existed; evaluation on the benchmarks does not count. A stage that arms share counts in "
        "each of them with the time it took when it was computed.",
    ),
    "teacher_curves": (
        "Training of the teachers",
        "Many off-policy steps on one fixed batch; a run that arms share is shown once.",
    ),
    "online_curves": (
        "Training on policy",
        "Fresh samples for every step; values are measured before the step's update.",
    ),
    "deviation": (
        "How far students follow",
        "Tokens of the fixed batch, in groups of equal size by how far the teacher moved them from "
        "old. Shown is the student's mean move divided by the teacher's.",
    ),
    "log_ratios": (
        "Where teachers moved",
        "The teacher's log-ratio to old for every token of the fixed batch, by the outcome of its "
        "response. Values outside the range are counted in the outer bins.",
    ),
}
"""Heading and caption of each picture; the file is named after the picture."""
FILTERED = ("name", "description", "runtime")
"""Config keys that do not count as differences between arms."""


@dataclass(frozen=True)
class ArmLine:
    """An arm as a row of the page."""

    name: str
    status: str
    """Status of its campaign; `not begun` if the registry has none."""
    iterations: str
    """Completed and planned iterations, as `1 of 3`."""
    link: str
    """Address of its own report, relative to the page; empty without a campaign."""
    settings: tuple[str, ...]
    """Settings that are not the same in all arms."""


# ---------------------------------------------------------------------------------------- the study


def write_study_report(
    registry: Registry, store: Store, study: Study, campaigns: Mapping[str, str], folder: Path
) -> Path:
    """Write `report.html` and its PNGs into `folder`.

    **Arguments:**
        campaigns: Arm -> campaign id, for the arms that have begun.
        folder: Has to be next to the report folders of the arms, since the page links to them.
    **Returns:** The path of the page.
    **Raises:** ValueError if the study names a table or row that the paper does not have.
    """
    known = {arm.name: campaigns[arm.name] for arm in study.arms if arm.name in campaigns}
    rows = study_rows(registry, known, study)
    paper = load_paper(study.paper) if study.paper else None
    arms = _arm_lines(registry, study, known)
    benchmarks = benchmarks_of([row.row for row in rows])
    return write_page(
        "study.html.j2",
        folder / "report.html",
        {
            f"{name}.png": image
            for name, image in draw(study.pictures, registry, store, known, rows).items()
        },
        [f"{name}.png" for name in get_args(Picture)],
        study=study,
        command=study_command(study),
        arms=arms,
        complete=[arm.name for arm in arms if arm.status == "completed"],
        status=_status(arms),
        study_rows=rows,
        benchmarks=benchmarks,
        shared=[
            name
            for name in benchmarks
            if any(row.score_difference(name) is not None for row in rows)
        ],
        paper=paper,
        paper_columns=_paper_columns(paper, rows),
        captions={name: CAPTIONS[name] for name in dict.fromkeys(study.pictures)},
        settings={
            key: (_text(setting.value), setting.section) for key, setting in paper.settings.items()
        }
        if paper
        else {},
        per_nat=per_nat_words,
        gain=gain_words,
        signed=signed,
        signal=signal_of,
    )


def study_command(study: Study) -> str:
    """The `erpd run` command that runs exactly this study."""
    settings = [f"scale={study.scale}", *study.overrides]
    return " ".join(
        [
            "erpd run",
            shlex.quote(study.recipe or study.name),
            *(f"--set {shlex.quote(setting)}" for setting in settings),
        ]
    )


def _arm_lines(registry: Registry, study: Study, campaigns: Mapping[str, str]) -> list[ArmLine]:
    differing = settings_apart(study.arms)
    lines = []
    for arm in study.arms:
        campaign = _campaign(registry, campaigns.get(arm.name))
        done = (
            sum(row.status == "completed" for row in registry.iterations(campaign.id))
            if campaign
            else 0
        )
        link = f"../{quote(campaign.id, safe='')}/report.html" if campaign else ""
        status = campaign.status if campaign else "not begun"
        lines.append(
            ArmLine(
                arm.name, status, f"{done} of {arm.config.iterations}", link, differing[arm.name]
            )
        )
    return lines


def _campaign(registry: Registry, id: str | None) -> CampaignRecord | None:
    """The campaign of exactly this id, not of a name or beginning; None if there is none."""
    try:
        campaign = registry.campaign(id) if id else None
    except LookupError:
        return None
    return campaign if campaign and campaign.id == id else None


def _status(arms: Sequence[ArmLine]) -> str:
    """The status of the study: completed if every arm is, else the worst status of an arm."""
    states = {arm.status for arm in arms}
    if states == {"completed"}:
        return "completed"
    return next(
        (state for state in ("failed", "killed") if state in states),
        "running" if states != {"not begun"} else "not begun",
    )


def settings_apart(arms: Sequence[Arm]) -> dict[str, tuple[str, ...]]:
    """Arm -> `key.path=value` of each of its settings that is not the same in all arms."""
    flat = {
        arm.name: {
            key: setting_text(value)
            for key, value in flatten(
                arm.config.model_dump(mode="json", exclude=set(FILTERED))
            ).items()
        }
        for arm in arms
    }
    keys = list(dict.fromkeys(key for leaves in flat.values() for key in leaves))
    different = [key for key in keys if len({leaves.get(key) for leaves in flat.values()}) > 1]
    return {
        arm: tuple(f"{key}={leaves[key]}" for key in different if key in leaves)
        for arm, leaves in flat.items()
    }


def _paper_columns(paper: PaperTable | None, rows: Sequence[StudyRow]) -> list[str]:
    """Score columns of the paper that are filled in some row."""
    used = {name for row in rows if row.paper for name in row.paper.values}
    return [name for name in paper.benchmarks if name in used] if paper else []


def _text(value: Any) -> str:
    return ", ".join(str(item) for item in value) if isinstance(value, tuple) else str(value)


# --------------------------------------------------------------------------------------- efficiency


def write_efficiency_page(registry: Registry, campaigns: Mapping[str, str], folder: Path) -> Path:
    """Write `efficiency.html` and `efficiency.png`: score and KL of every policy of the campaigns.

    **Arguments:**
        campaigns: Label -> campaign id or name.
    **Returns:** The path of the page.
    **Raises:** LookupError for an unknown campaign.
    """
    from flows.reports.figures import campaign as figures
    from flows.reports.figures import study as study_figures

    campaigns = {label: registry.campaign(campaign).id for label, campaign in campaigns.items()}
    rows = study_rows(registry, campaigns)
    figure = study_figures.efficiency(placed(rows), list(campaigns))
    return write_page(
        "efficiency.html.j2",
        folder / "efficiency.html",
        {"efficiency.png": figures.png(figure)} if figure else {},
        ["efficiency.png"],
        campaigns=campaigns,
        study_rows=rows,
        benchmarks=benchmarks_of([row.row for row in rows]),
        front=front_of(rows),
        per_nat=per_nat_words,
        gain=gain_words,
        signal=signal_of,
    )


def front_of(rows: Sequence[StudyRow]) -> set[str]:
    """Ids of the policies on the Pareto front of mean score and KL to the base.

    No other policy measured on the same benchmarks has as high a mean score at less KL.
    """
    from flows.reports.figures.campaign import pareto_front

    known = [
        (row.row, frozenset(row.row.report.scores))
        for row in rows
        if math.isfinite(row.row.report.kl_base)
    ]
    fronts = {
        benchmarks: set(
            pareto_front(
                (policy.report.kl_base, policy.mean)
                for policy, measured_on in known
                if measured_on == benchmarks
            )
        )
        for _, benchmarks in known
    }
    return {
        policy.report.policy
        for policy, benchmarks in known
        if (policy.report.kl_base, policy.mean) in fronts[benchmarks]
    }
