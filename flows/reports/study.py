"""What a study came to, as one self-contained HTML page beside the paper's numbers; and the page of
what score costs in KL.

Everything is read from the registry, curves and histograms from the store: a study that is half
done shows what there is. The same data gives the same bytes. Nothing here imports torch.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args
from urllib.parse import quote

import yaml

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
from tasks.registry import Campaign, Registry
from tasks.store import Store

CAPTIONS: dict[Picture, tuple[str, str]] = {
    "gains": (
        "Gains over the base",
        "Points over the base, mean over the benchmarks, with a 95 % interval that takes the two "
        "as independent. Hollow diamonds: the "
        "paper's gain over its own base, on its models and benchmarks.",
    ),
    "score_vs_kl": (
        "Score against KL",
        "Score against distance from the base: up and to the left is better. Policies that arms "
        "share stand once. Bars: 95 % interval.",
    ),
    "stages": (
        "Score by iteration",
        "A line per arm through the base and its students; beside each student what its iteration "
        "did, teachers hollow.",
    ),
    "time": (
        "Score against time",
        "Seconds of sampling, training, scoring, distilling and validating until a policy was "
        "there; benchmarks are measured for free. "
        "Stages that arms share count in each of them with what they cost when they were worked "
        "out.",
    ),
    "teacher_curves": (
        "Training of the teachers",
        "Many off-policy steps on one fixed batch; a run that arms share stands once.",
    ),
    "online_curves": (
        "Training on policy",
        "Fresh samples for every step; values are taken before the step's update.",
    ),
    "deviation": (
        "How far students follow",
        "Tokens of the fixed batch in equal groups by how far the teacher moved them from old: "
        "the student's mean move over the teacher's.",
    ),
    "log_ratios": (
        "Where teachers moved",
        "The teacher's log-ratio to old for every token of the fixed batch, by the outcome of its "
        "response. What lies outside is counted "
        "in the outer bins.",
    ),
}
"""Heading and caption of each picture; the file is named after the picture."""
FILTERED = ("name", "description", "runtime")


@dataclass(frozen=True)
class ArmLine:
    """An arm as the page tells of it."""

    name: str
    status: str
    """Of its campaign; `not begun` where the registry has none."""
    iterations: str
    link: str
    """Its own report, relative to the page; empty without a campaign."""
    settings: tuple[str, ...]
    """What sets it apart from the other arms."""


# ---------------------------------------------------------------------------------------- the study


def write_study_report(
    registry: Registry, store: Store, study: Study, campaigns: Mapping[str, str], folder: Path
) -> Path:
    """Write `report.html` and its PNGs into `folder`, which lies beside the folders of the arms;
    the path of the page.

    `campaigns`: arm -> campaign id, for those arms that have begun.

    **Raises:** ValueError: the study names a table, or a row of it, that the paper does not have.
    """
    known = {arm.name: campaigns[arm.name] for arm in study.arms if arm.name in campaigns}
    listed = study_rows(registry, known, study)
    paper = load_paper(study.paper) if study.paper else None
    arms = _arm_lines(registry, study, known)
    benchmarks = benchmarks_of([entry.row for entry in listed])
    return write_page(
        "study.html.j2",
        folder / "report.html",
        {
            f"{name}.png": image
            for name, image in draw(study.pictures, registry, store, known, listed).items()
        },
        [f"{name}.png" for name in get_args(Picture)],
        study=study,
        command=study_command(study),
        arms=arms,
        complete=[arm.name for arm in arms if arm.status == "completed"],
        status=_status(arms),
        study_rows=listed,
        benchmarks=benchmarks,
        shared=[
            name
            for name in benchmarks
            if any(entry.score_difference(name) is not None for entry in listed)
        ],
        paper=paper,
        paper_columns=_paper_columns(paper, listed),
        captions={name: CAPTIONS[name] for name in dict.fromkeys(study.pictures)},
        settings={key: (_words(one.value), one.section) for key, one in paper.settings.items()}
        if paper
        else {},
        per_nat=per_nat_words,
        gain=gain_words,
        signed=signed,
        signal=signal_of,
    )


def study_command(study: Study) -> str:
    """The command that asks for this very study."""
    settings = [f"scale={study.scale}", *study.overrides]
    return " ".join(
        [
            "erpd run",
            shlex.quote(study.recipe or study.name),
            *(f"--set {shlex.quote(one)}" for one in settings),
        ]
    )


def _arm_lines(registry: Registry, study: Study, campaigns: Mapping[str, str]) -> list[ArmLine]:
    apart = settings_apart(study.arms)
    lines = []
    for arm in study.arms:
        campaign = _campaign(registry, campaigns.get(arm.name))
        done = (
            sum(one.status == "completed" for one in registry.iterations(campaign.id))
            if campaign
            else 0
        )
        link = f"../{quote(campaign.id, safe='')}/report.html" if campaign else ""
        status = campaign.status if campaign else "not begun"
        lines.append(
            ArmLine(arm.name, status, f"{done} of {arm.config.iterations}", link, apart[arm.name])
        )
    return lines


def _campaign(registry: Registry, id: str | None) -> Campaign | None:
    """The campaign of exactly this id."""
    try:
        found = registry.campaign(id) if id else None
    except LookupError:
        return None
    return found if found and found.id == id else None


def _status(arms: Sequence[ArmLine]) -> str:
    """The study's own: completed when every arm is, else the worst of its arms."""
    states = {arm.status for arm in arms}
    if states == {"completed"}:
        return "completed"
    return next(
        (state for state in ("failed", "killed") if state in states),
        "running" if states != {"not begun"} else "not begun",
    )


def settings_apart(arms: Sequence[Arm]) -> dict[str, tuple[str, ...]]:
    """`key.path=value` of every setting that is not the same in all arms, for each arm that has
    it.
    """
    flat = {
        arm.name: dict(_leaves(arm.config.model_dump(mode="json", exclude=set(FILTERED))))
        for arm in arms
    }
    keys = list(dict.fromkeys(key for leaves in flat.values() for key in leaves))
    different = [key for key in keys if len({leaves.get(key) for leaves in flat.values()}) > 1]
    return {
        arm: tuple(f"{key}={leaves[key]}" for key in different if key in leaves)
        for arm, leaves in flat.items()
    }


def _leaves(tree: Mapping[str, Any], above: str = "") -> Iterable[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{above}{key}.")
        else:
            text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
            yield f"{above}{key}", text.removesuffix("...\n").strip()


def _paper_columns(paper: PaperTable | None, listed: Sequence[StudyRow]) -> list[str]:
    """Score columns of the paper that some policy stands beside."""
    used = {name for entry in listed if entry.paper for name in entry.paper.values}
    return [name for name in paper.benchmarks if name in used] if paper else []


def _words(value: Any) -> str:
    return ", ".join(str(one) for one in value) if isinstance(value, tuple) else str(value)


# --------------------------------------------------------------------------------------- efficiency


def write_efficiency_page(registry: Registry, campaigns: Mapping[str, str], folder: Path) -> Path:
    """Write `efficiency.html` and `efficiency.png`: what every policy of these campaigns (label ->
    id or name) scores, and at which KL.

    **Raises:** LookupError: there is no such campaign.
    """
    from flows.reports.figures import campaign as figures
    from flows.reports.figures import study as study_figures

    campaigns = {label: registry.campaign(campaign).id for label, campaign in campaigns.items()}
    listed = study_rows(registry, campaigns)
    figure = study_figures.efficiency(placed(listed), list(campaigns))
    return write_page(
        "efficiency.html.j2",
        folder / "efficiency.html",
        {"efficiency.png": figures.png(figure)} if figure else {},
        ["efficiency.png"],
        campaigns=campaigns,
        study_rows=listed,
        benchmarks=benchmarks_of([entry.row for entry in listed]),
        front=front_of(listed),
        per_nat=per_nat_words,
        gain=gain_words,
        signal=signal_of,
    )


def front_of(listed: Sequence[StudyRow]) -> set[str]:
    """Identities of the policies that no other beats: none has as high a mean score, on the same
    benchmarks, at less KL to base.
    """
    from flows.reports.figures.campaign import pareto_front

    known = [
        (entry.row, frozenset(entry.row.report.scores))
        for entry in listed
        if math.isfinite(entry.row.report.kl_base)
    ]
    fronts = {
        same: set(pareto_front((row.report.kl_base, row.mean) for row, on in known if on == same))
        for _, same in known
    }
    return {row.report.policy for row, on in known if (row.report.kl_base, row.mean) in fronts[on]}
