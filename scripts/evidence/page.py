"""docs/results/claims.md: what is claimed, what was found, how surely, and the figures; made from the records alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.evidence.claims import CLAIMS
from scripts.evidence.figures import draw_all
from scripts.evidence.judging import Finding, Interval, Part, judge
from scripts.evidence.record import Record, read_records
from scripts.evidence.running import study_names
from tasks.store import write_atomically

HEAD = """# What of the paper this implementation shows at small scale

Made by `make evidence` (`python -m scripts.evidence --page` from the records alone). Every number below is worked out from the records
in [evidence/](evidence/), one file for each study and seed; the studies are the recipes in
[scripts/evidence/studies](../../scripts/evidence/studies).

**How it is judged**, fixed before these runs: an effect is worked out within each seed, and its 95 % interval is Student's t over seeds.
A part of a claim is *shown* when the whole interval lies on the side that the paper claims, *against* when it lies on the other, else
*open*. A claim is reproduced when every part is shown, contradicted when its first part is against, partly reproduced when some part is
shown, and otherwise not shown at this scale; with fewer than eight seeds that is a verdict so far, and intervals are wide. What stands
below a table was written after seeds 0 to 2 were looked at. Whatever was tuned (learning rates, steps, betas, weights) was tuned on
validation problems of seeds 100 and above; what stands here is on test problems of the seeds from 0 on.

Scores are the share of right answers, AVG@K in %; differences are in points. KL is k1 in nats per token on fresh samples of the policy
itself, from the base.
"""


SUMMARY = ("<!-- claims: made by `make evidence` -->", "<!-- end of claims -->")
"""The lines of another page between which its table stands."""
SEEDS = 8
"""How many a verdict is to have; with fewer it is one so far."""


def write_page(records: Path, page: Path, summary: Path) -> Path:
    """Write the page and its figures from the records there are, and its table into `summary` between the lines of SUMMARY; the path of the
    page. **Raises:** ValueError: those lines are not there."""
    found = {study: read_records(records, study) for study in study_names()}
    findings = judged(found)
    figures = draw_all(found, page.parent / "evidence")
    parts = [HEAD, summary_table(findings), *(_section(one, found[one.claim.study], figures) for one in findings), _cost(found)]
    page.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(page, lambda path: path.write_text("\n".join(parts)))
    before, begins, rest = summary.read_text().partition(SUMMARY[0])
    _, ends, after = rest.partition(SUMMARY[1])
    if not (begins and ends):
        raise ValueError(f"{summary}: the lines between which the table stands are not there: {' and '.join(SUMMARY)}")
    here = summary_table(findings, page.relative_to(summary.parent).as_posix())
    write_atomically(summary, lambda path: path.write_text(f"{before}{SUMMARY[0]}\n{here}{SUMMARY[1]}{after}"))
    return page


def judged(found: Mapping[str, Sequence[Record]]) -> list[Finding]:
    """Every claim, by the records of its study."""
    return [judge(claim, found[claim.study]) for claim in CLAIMS]


def summary_table(findings: Sequence[Finding], page: str = "") -> str:
    """A row for each claim. Its links lead to the claims on `page`, this one when empty."""
    lines = ["| | claim | verdict | seeds | main effect |", "|---|---|---|---|---|"]
    for one in findings:
        effect = f"{_words(one.claim.parts[0], one.intervals[0])}" if one.intervals else ""
        seeds = one.intervals[0].seeds if one.intervals else 0
        lines.append(
            f"| {one.claim.number} | [{one.claim.title}]({page}#claim-{one.claim.number}) | {_verdict(one)} | {seeds} | {effect} |"
        )
    return "\n".join(lines) + "\n"


def _section(one: Finding, records: Sequence[Record], figures: dict[str, str]) -> str:
    claim = one.claim
    lines = [f'<a id="claim-{claim.number}"></a>', "", f"## {claim.number}. {claim.title}", "", f"**The paper:** {claim.paper}", ""]
    seeds = f"{len(records)} seeds" if one.intervals else f"on {len(records)} of the two seeds that an interval takes"
    lines += [f"**Here:** {_verdict(one)}, {seeds}.", "", "| comparison | claimed | found | |", "|---|---|---|---|"]
    for number, part in enumerate(claim.parts):
        claimed = f"{part.side} {part.bound:g} {part.unit}"
        found = f"{_words(part, one.intervals[number])} | {one.standings[number]}" if one.intervals else "– | "
        lines.append(f"| {part.what} | {claimed} | {found} |")
    lines += ["", claim.remark] if claim.remark else []
    if name := figures.get(claim.study):
        lines += ["", f"![{claim.title}](evidence/{name})"]
    lines += ["", f"`erpd run scripts/evidence/studies/{claim.study}.yaml --set seed=0`", ""]
    return "\n".join(lines)


def _verdict(one: Finding) -> str:
    return f"{one.verdict} so far" if one.intervals and one.intervals[0].seeds < SEEDS else one.verdict


def _words(part: Part, found: Interval) -> str:
    digits = 1 if part.unit == "points" else 3
    return f"{found.mean:+.{digits}f} [{found.low:+.{digits}f}, {found.high:+.{digits}f}] {part.unit}".replace("-", "−")


def _cost(found: dict[str, list[Record]]) -> str:
    lines = ["## What it costs", "", "| study | seeds | minutes a seed | commits |", "|---|---|---|---|"]
    for study, records in found.items():
        if records:
            minutes = sum(one.seconds for one in records) / len(records) / 60
            commits = ", ".join(sorted({(one.commit or "unknown")[:7] for one in records}))
            lines.append(f"| {study} | {len(records)} | {minutes:.1f} | {commits} |")
    return "\n".join(
        [*lines, "", "Seconds of a study are those of its command, without what earlier studies of the seed had worked out.", ""]
    )
