"""`erpd report`: what a campaign came to, as one self-contained HTML page with PNGs beside it.

Everything is read from the registry, and the curves from the store; nothing is worked out again, so
a report of a running, failed or killed campaign shows what there is. The same data gives the same
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
from flows.recipes.load import load_recipe
from flows.reports.evaluation_details import measures
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
from tasks.host.atomic_files import write_atomically
from tasks.registry import Attached, Campaign, Iteration, Registry
from tasks.store import Store
from tasks.untrusted.display_text import visible_lines

if TYPE_CHECKING:  # slow to import
    from flows.reports.figures.campaign import Run

PNGS = ("score_vs_kl.png", "teacher.png", "unlearned.png", "student.png", "time.png")

# ----------------------------------------------------------------------------- how it was asked for


def command(campaign: Campaign) -> tuple[str, bool]:
    """The `erpd run` command that asks for this very config, and whether it was checked to do so
    (the recipe may be gone or changed).
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
    """`key.path=value` for what differs; a mapping whose keys differ (another kind of loss) is
    written whole.
    """
    found: list[str] = []
    for key, value in new.items():
        before = old.get(key)
        if (
            isinstance(value, Mapping)
            and isinstance(before, Mapping)
            and value.keys() == before.keys()
        ):
            found += _differences(before, value, f"{above}{key}.")
        elif value != before:
            text = (
                yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
                .removesuffix("...\n")
                .strip()
            )
            found.append(f"{above}{key}={text}")
    return found


# ---------------------------------------------------------------------------------------- decisions

EVIDENCE = {
    "start": "Start on validation",
    "teacher": "Teacher on validation",
    "teacher_minus_start": "Teacher minus start, paired by problem",
    "standard_error": "Standard error of that difference",
    "z": "Standard errors a gain must exceed",
    "min_gain": "Points a gain must exceed",
    "before": "Strategies of the iterations before",
    "teacher_minus_student": "Teacher minus earlier students",
    "teacher_step": "Teacher's step, chosen on validation",
    "kl_base_so_far": "KL of the last student to the base, nats per token",
    "asked": "Asked of a person",
    "student": "Earlier student chosen for strategy 3 (iteration)",
}
IN_POINTS = {"teacher_minus_start", "standard_error", "min_gain", "difference"}


def evidence_lines(evidence: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A decision's evidence as (what, value in words) pairs; keys not known here keep their own
    name.
    """
    return [
        (EVIDENCE.get(key, key.replace("_", " ")), _words(value, key))
        for key, value in evidence.items()
    ]


def _words(value: Any, key: str = "") -> str:
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
            "; ".join(f"{prefix}{name}: {_words(item, str(name))}" for name, item in value.items())
            or "none"
        )
    if isinstance(value, list | tuple):
        return ", ".join(_words(item) for item in value) or "none"
    if isinstance(value, float):
        signed = points(value) if key != "standard_error" else percent(value)
        return f"{signed} points" if key in IN_POINTS else f"{value:.4g}"
    return str(value)


# --------------------------------------------------------------------------------------------- data


def data_lines(attached: Sequence[Attached]) -> list[str]:
    """One sentence on each problem list that came from the hub or was checked for overlap: where
    from, how many, what it shares.
    """
    lines = []
    for one in attached:
        if one.artifact.kind != "problems":
            continue
        ref = dict(one.artifact.meta.get("ref") or {})
        said = [f"from {ref['origin']}"] if ref.get("origin") else []
        if overlap := ref.get("overlap"):
            count = overlap["exact"] + overlap["ngram"]
            where = ", ".join(
                f"{name} {some}" for name, some in overlap["benchmarks"].items() if some
            )
            dropped = ", left out" if overlap["action"] == "drop" and count else ""
            said.append(
                f"{count} of {overlap['checked']} overlap with what is measured "
                f"on{f' ({where})' if where else ''}{dropped}"
            )
        if said:
            role = one.role if one.iteration == 0 else f"{one.role} of iteration {one.iteration}"
            lines.append(f"{role}: {ref['count']} problems, {'; '.join(said)}")
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


def write_report(registry: Registry, store: Store, campaign_id: str, folder: Path) -> Path:
    """Write `report.html` (self-contained) and its PNGs into `folder`; the path of the page.

    **Raises:** LookupError: there is no such campaign.
    """
    campaign = registry.campaign(campaign_id)
    iterations, attached = registry.iterations(campaign.id), registry.artifacts(campaign.id)
    rows = table_rows(registry, campaign.id)
    pictures = _pictures(rows, iterations, attached, store)
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
        phases=list(dict.fromkeys(phase for one in iterations for phase in one.seconds)),
        attached=attached,
        data=data_lines(attached),
        lineage=_lineage(registry, best),
        config=yaml.safe_dump(campaign.config, sort_keys=False, allow_unicode=True, width=110),
    )


def _write_bytes(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def write_page(
    template: str, path: Path, pictures: Mapping[str, bytes], names: Sequence[str], **values: Any
) -> Path:
    """Write a page with its pictures in it and beside it. Of `names`, those that an earlier page
    had and this one lacks go.
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
        finalize=_seen,
    )
    environment.filters |= FILTERS
    embedded = {name: base64.b64encode(image).decode() for name, image in pictures.items()}
    page = environment.get_template(template).render(pictures=embedded, **values)
    write_atomically(path, lambda target: target.write_text(page, encoding="utf-8"))
    return path


def _seen(value: Any) -> Any:
    """A text of a page with nothing in it that cannot be seen; what a template itself made
    stays.
    """
    return visible_lines(value) if type(value) is str else value


def _lineage(registry: Registry, best: PolicyRow | None) -> list[str]:
    """What the best student was made from, one line per artifact, indented."""
    try:
        lines = registry.lineage(best.report.policy).lines if best else ()
    except LookupError:
        return []
    return [
        f"{'  ' * one.depth}{f'{one.role}: ' if one.role else ''}{one.artifact.id}"
        f"{' (above)' if one.repeated else ''}"
        for one in lines
    ]


def _pictures(
    rows: Sequence[PolicyRow],
    iterations: Sequence[Iteration],
    attached: Sequence[Attached],
    store: Store,
) -> dict[str, bytes]:
    from flows.reports.figures import campaign as figures

    places = []
    for row in rows:
        if row.moved:
            start = start_of(row, rows)
            places.append(
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
        "score_vs_kl.png": figures.score_against_kl(places),
        "teacher.png": figures.training_curves(_runs(attached, store, "teacher", chosen)),
        "unlearned.png": figures.training_curves(_runs(attached, store, "unlearned", {})),
        "student.png": figures.training_curves(_runs(attached, store, "student", {})),
        "time.png": figures.time_by_phase(
            {f"iteration {one.index}": one.seconds for one in iterations if one.seconds}
        ),
    }
    return {name: figures.png(figure) for name, figure in drawn.items() if figure is not None}


def _runs(
    attached: Sequence[Attached], store: Store, role: str, chosen: Mapping[int, int | None]
) -> list[Run]:
    """The training runs of a role. `chosen`: the step that became the iteration's policy, where
    there was a choice.
    """
    from flows.reports.figures.campaign import Run

    found = []
    for one in (one for one in attached if one.role == f"{role} training"):
        validation = {} if role == "student" else validation_scores(attached, one.iteration, role)
        rows = training_records(store, one.artifact.id)
        found.append(
            Run(
                f"iteration {one.iteration}",
                one.iteration,
                rows,
                validation,
                chosen.get(one.iteration),
            )
        )
    return found


def validation_scores(attached: Sequence[Attached], iteration: int, role: str) -> dict[int, float]:
    """Step -> validation score of a training run's kept policies."""
    found = {}
    for one in attached:
        ref = one.artifact.meta.get("ref") or {}
        if (
            one.iteration == iteration
            and one.role == f"{role} validation"
            and {"policy", "accuracy"} <= ref.keys()
        ):
            found[int(ref["policy"]["step"])] = float(ref["accuracy"])
    return found


def training_records(store: Store, training: str) -> list[dict[str, float]]:
    """The record of every step of a training run; none when the store lost it."""
    path = store.path(training) / "records.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
