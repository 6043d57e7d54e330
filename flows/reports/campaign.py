"""`erpd report`: the results of a campaign as one self-contained HTML page, with PNG files.

Results are read from the registry, and curves from the store. Nothing is computed again, so the
report of a running, failed or killed campaign shows what exists. The same data gives the same
bytes. Nothing here imports torch.
"""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from erpd_core.config import CampaignConfig
from erpd_core.refs import Score
from flows.recipes.load import load_recipe, setting_text
from flows.reports.evaluation_details import measures
from flows.reports.races import race_scores, races_of, samples_saved
from flows.reports.results import (
    PolicyRow,
    benchmarks_of,
    interval,
    nats,
    percent,
    points,
    start_of,
    step_of,
    summary,
    table_rows,
)
from flows.reports.timeline_text import headline, idle_sentence, session_rows
from tasks.execution.timeline import Timeline, read_timeline
from tasks.host.atomic_files import write_atomically
from tasks.host.home import events_path
from tasks.registry import Attached, CampaignRecord, IterationRecord, Registry
from tasks.store import Store
from tasks.untrusted.display_text import visible_lines

if TYPE_CHECKING:  # slow to import
    from flows.reports.figures.campaign import Run

PNGS = (
    "score_vs_kl.png",
    "teacher.png",
    "unlearned.png",
    "student.png",
    "timeline.png",
    "time.png",
)

# ------------------------------------------------------------------------------------------ command


def command(campaign: CampaignRecord) -> tuple[str, bool]:
    """The `erpd run` command of a campaign, and whether it resolves to exactly its config.

    It does not if the recipe no longer exists or has changed.
    """
    plain = f"erpd run {shlex.quote(campaign.recipe or campaign.name)}"
    try:
        wanted = CampaignConfig.model_validate(campaign.config)
        recipe = load_recipe(campaign.recipe).model_dump(mode="json")
        settings = _differences(recipe, wanted.model_dump(mode="json"), "")
        if load_recipe(campaign.recipe, settings) != wanted:
            return plain, False
    except ValueError:
        return plain, False
    return " ".join([plain, *(f"--set {shlex.quote(setting)}" for setting in settings)]), True


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], above: str) -> list[str]:
    """`key.path=value` for each key that differs.

    A mapping whose keys differ (another kind of loss) is written as one value.
    """
    settings: list[str] = []
    for key, value in new.items():
        before = old.get(key)
        if (
            isinstance(value, Mapping)
            and isinstance(before, Mapping)
            and value.keys() == before.keys()
        ):
            settings += _differences(before, value, f"{above}{key}.")
        elif value != before:
            settings.append(f"{above}{key}={setting_text(value)}")
    return settings


# ---------------------------------------------------------------------------------------- decisions

EVIDENCE = {
    "start": "Start on validation",
    "teacher": "Teacher on validation",
    "teacher_minus_start": "Teacher minus start, paired by problem",
    "standard_error": "Standard error of that difference",
    "z": "Standard errors a gain must exceed",
    "min_gain": "Points a gain must exceed",
    "before": "Strategies of earlier iterations",
    "teacher_minus_student": "Teacher minus earlier students",
    "teacher_step": "Teacher's step, chosen on validation",
    "kl_base_so_far": "KL of the last student to the base, nats per token",
    "asked": "Answer of a user",
    "student": "Earlier student chosen for strategy 3 (iteration)",
}
IN_POINTS = {"teacher_minus_start", "standard_error", "min_gain", "difference"}


def evidence_lines(evidence: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A decision's evidence as (label, value as text) pairs. Unknown keys are their own label."""
    return [
        (EVIDENCE.get(key, key.replace("_", " ")), _text(value, key))
        for key, value in evidence.items()
    ]


def _text(value: Any, key: str = "") -> str:
    """A value of the evidence as text; `key` decides its unit."""
    if isinstance(value, Mapping):
        if {"avg", "k", "problems", "ci95"} <= value.keys():
            score = Score.model_validate(value)
            return (
                f"{percent(score.avg)} % {interval(score)}, AVG@{score.k} on {score.problems} "
                f"problems"
            )
        if {"difference", "standard_error"} == value.keys():
            return (
                f"{points(value['difference'])} points, standard error "
                f"{percent(value['standard_error'])}"
            )
        prefix = "iteration " if key == "teacher_minus_student" else ""
        return (
            "; ".join(f"{prefix}{name}: {_text(item, str(name))}" for name, item in value.items())
            or "none"
        )
    if isinstance(value, list | tuple):
        return ", ".join(_text(item) for item in value) or "none"
    if isinstance(value, float):
        signed = points(value) if key != "standard_error" else percent(value)
        return f"{signed} points" if key in IN_POINTS else f"{value:.4g}"
    return str(value)


# --------------------------------------------------------------------------------------------- data


def data_lines(attached: Sequence[Attached]) -> list[str]:
    """A line on each problem list that came from the hub or was checked for overlap.

    It gives the number of problems, the origin and the overlap.
    """
    lines = []
    for row in attached:
        if row.artifact.kind != "problems":
            continue
        ref = dict(row.artifact.meta.get("ref") or {})
        facts = [f"from {ref['origin']}"] if ref.get("origin") else []
        if overlap := ref.get("overlap"):
            count = overlap["exact"] + overlap["ngram"]
            where = ", ".join(
                f"{name} {shared}" for name, shared in overlap["benchmarks"].items() if shared
            )
            dropped = ", left out" if overlap["action"] == "drop" and count else ""
            facts.append(
                f"{count} of {overlap['checked']} overlap with validation or benchmarks"
                f"{f' ({where})' if where else ''}{dropped}"
            )
        if facts:
            role = row.role if row.iteration == 0 else f"{row.role} of iteration {row.iteration}"
            lines.append(f"{role}: {ref['count']} problems, {'; '.join(facts)}")
    return lines


# ----------------------------------------------------------------------------------------- the page

FILTERS = {
    "percent": percent,
    "points": points,
    "nats": nats,
    "interval": interval,
    "evidence": evidence_lines,
    "step": step_of,
}


def write_report(
    registry: Registry, store: Store, campaign_id: str, folder: Path, events: Path | None = None
) -> Path:
    """Write `report.html` (self-contained) and its PNGs into `folder`.

    **Arguments:**
        events: File of the campaign's events; if None, the one in ERPD_HOME. Without such a file,
            the report has no timeline.
    **Returns:** The path of the page.
    **Raises:** LookupError for an unknown campaign.
    """
    campaign = registry.campaign(campaign_id)
    iterations, attached = registry.iterations(campaign.id), registry.artifacts(campaign.id)
    rows = table_rows(registry, campaign.id)
    timeline = read_timeline(events or events_path(campaign.id))
    pictures = _pictures(rows, iterations, attached, store, timeline)
    best = next((row for row in rows if row.best), None)
    line, exact = command(campaign)
    return write_page(
        "report.html.j2",
        folder / "report.html",
        pictures,
        PNGS,
        campaign=campaign,
        model=" ".join(
            str(value)
            for value in dict(campaign.config.get("model") or {}).values()
            if value is not None
        ),
        command=line,
        exact=exact,
        rows=rows,
        measures=measures(rows, attached, store),
        base=next((row for row in rows if row.role == "base"), None),
        benchmarks=benchmarks_of(rows),
        summary=summary(rows),
        iterations=iterations,
        phases=list(
            dict.fromkeys(phase for iteration in iterations for phase in iteration.seconds)
        ),
        timeline=(headline(timeline), idle_sentence(timeline)) if timeline else None,
        sessions=session_rows(timeline) if timeline else [],
        attached=attached,
        data=data_lines(attached),
        races=(races := races_of(attached)),
        saved=samples_saved(races),
        lineage=_lineage(registry, best),
        config=yaml.safe_dump(campaign.config, sort_keys=False, allow_unicode=True, width=110),
    )


def _write_bytes(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def write_page(
    template: str, path: Path, pictures: Mapping[str, bytes], names: Sequence[str], **values: Any
) -> Path:
    """Render a page with embedded pictures, and write it and its pictures.

    **Arguments:**
        path: File of the page; the pictures are written to the same folder.
        pictures: File name -> PNG.
        names: All file names of pictures that such a page may have. Those that this page lacks are
            removed, since an earlier page may have left them.
        values: Variables of the template.
    """
    for name in names:
        if name in pictures:
            write_atomically(path.parent / name, partial(_write_bytes, pictures[name]))
        else:
            (path.parent / name).unlink(missing_ok=True)
    environment = Environment(
        loader=PackageLoader("flows.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    environment.filters |= FILTERS
    embedded = {name: base64.b64encode(image).decode() for name, image in pictures.items()}
    page = environment.get_template(template).render(pictures=embedded, **values)
    write_atomically(path, lambda target: target.write_text(page, encoding="utf-8"))
    return path


def _visible(value: Any) -> Any:
    """A text without invisible characters. Markup made by a template is not changed."""
    return visible_lines(value) if type(value) is str else value


def _lineage(registry: Registry, best: PolicyRow | None) -> list[str]:
    """The lineage of the best student, one indented line per artifact."""
    try:
        lines = registry.lineage(best.report.policy).lines if best else ()
    except LookupError:
        return []
    return [
        f"{'  ' * line.depth}{f'{line.role}: ' if line.role else ''}{line.artifact.id}"
        f"{' (above)' if line.repeated else ''}"
        for line in lines
    ]


def _pictures(
    rows: Sequence[PolicyRow],
    iterations: Sequence[IterationRecord],
    attached: Sequence[Attached],
    store: Store,
    timeline: Timeline | None,
) -> dict[str, bytes]:
    from flows.reports.figures import campaign as figures
    from flows.reports.figures.timeline import timeline_chart

    measured = []
    for row in rows:
        if row.moved:
            start = start_of(row, rows)
            measured.append(
                figures.Point(
                    row.name,
                    row.role,
                    row.iteration,
                    row.report.kl_base,
                    row.report.scores,
                    start.name if start else None,
                )
            )
    chosen = {row.iteration: row.step for row in rows if row.role == "teacher"}
    drawn = {
        "score_vs_kl.png": figures.score_against_kl(measured),
        "teacher.png": figures.training_curves(_runs(attached, store, "teacher", chosen)),
        "unlearned.png": figures.training_curves(_runs(attached, store, "unlearned", {})),
        "student.png": figures.training_curves(_runs(attached, store, "student", {})),
        "timeline.png": timeline_chart(timeline) if timeline else None,
        "time.png": figures.time_by_phase(
            {f"iteration {row.index}": row.seconds for row in iterations if row.seconds}
        ),
    }
    return {name: figures.png(figure) for name, figure in drawn.items() if figure is not None}


def _runs(
    attached: Sequence[Attached], store: Store, role: str, chosen: Mapping[int, int | None]
) -> list[Run]:
    """The training runs of a role.

    **Arguments:**
        chosen: Iteration -> the step that became its policy, for iterations with a choice.
    """
    from flows.reports.figures.campaign import Run

    runs = []
    for row in (row for row in attached if row.role == f"{role} training"):
        validation = {} if role == "student" else validation_scores(attached, row.iteration, role)
        records = training_records(store, row.artifact.id)
        runs.append(
            Run(
                f"iteration {row.iteration}",
                row.iteration,
                records,
                validation,
                chosen.get(row.iteration),
            )
        )
    return runs


def validation_scores(attached: Sequence[Attached], iteration: int, role: str) -> dict[int, float]:
    """Step -> validation score of a training run's kept policies, as a share of 1.

    After a race it is the average over the race's samples.
    """
    scores = race_scores(attached, iteration, role)
    if scores:
        return scores
    for row in attached:
        ref = row.artifact.meta.get("ref") or {}
        ref = ref.get("rollouts", ref) if row.artifact.kind == "gain" else ref
        if (
            row.iteration == iteration
            and row.role == f"{role} validation"
            and {"policy", "accuracy"} <= ref.keys()
        ):
            scores[int(ref["policy"]["step"])] = float(ref["accuracy"])
    return scores


def training_records(store: Store, training: str) -> list[dict[str, float]]:
    """The record of every step of a training run; empty if the run is not in the store."""
    path = store.path(training) / "records.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
