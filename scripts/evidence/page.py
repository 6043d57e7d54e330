"""Writes docs/results/claims.md, with claims, findings and figures, from the records alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.evidence.claims import CLAIMS
from scripts.evidence.figures import draw_all
from scripts.evidence.followups import FOLLOW_UPS, SINGLE_RUNS
from scripts.evidence.judging import (
    Claim,
    Finding,
    FollowUp,
    Interval,
    Part,
    SingleRun,
    judge,
)
from scripts.evidence.record import Record, read_records
from scripts.evidence.running import LOOKED_AT, study_names
from tasks.host.atomic_files import write_atomically

HEAD = """# Which of the paper's findings reproduce at small scale

Made by `make evidence`; `python -m scripts.evidence --page` rewrites it from the records alone. Every number in a table is computed from
the records in [evidence/](evidence/), one file per study and seed. The studies are the recipes in
[scripts/evidence/studies](../../scripts/evidence/studies).

**How claims are judged**, fixed before these runs: an effect is computed within each seed, and its 95 % interval is Student's t over
seeds. A part of a claim is *shown* if the whole interval is on the side of the bound that the paper claims, *against* if it is on the
other side, and *open* otherwise. A claim is reproduced if every part is shown, contradicted if its first part is against, partly
reproduced if some part is shown, and otherwise not shown at this scale. With fewer than eight seeds a verdict is marked "so far", and
intervals are wide. Two parts were added after seeds 0 to 4 had been looked at; they are marked "added afterwards".

**What a seed changes:** training problems, samples, and the order of a batch. All seeds share one base model, 256 validation problems and
400 test problems, so intervals say nothing about other bases or problems. Learning rates, steps, betas and weights were chosen on the
validation problems with seeds from 100 on; the tables are from the test problems with seeds from 0 on.

A full run of a real model, SmolLM2-135M, is in [smollm2.md](smollm2.md).

A **why** below a claim explains what does not reproduce and makes predictions, which are tested on further seeds. Unless it says
otherwise, the explanation was derived from seeds 0 to 2 and 100, when some main studies of seed 3 had been seen too, and is tested on
seeds from 3 on. That of `protocol` was derived after `cooler` had been seen on seed 3. A why does not change the verdict.

Scores are the share of right answers, AVG@K in %, at temperature 1 unless a study says otherwise; differences are in points. KL is
KL(policy ‖ base), k1 on the policy's own fresh samples, in nats per token. A doubling is a factor of two, and −1 doublings are a half; the
factor is in parentheses.

**What to know first:**

- The base of the tiny world is right on 99 % of the problems with its likeliest tokens and on 55 % when it samples at temperature 1. A
  policy gains certainty here, and can lose knowledge. Tested as in the paper (temperature 0.6, top-p 0.95), the students of an extreme and
  of a conservative teacher end above their teachers, by 6.0 points [0.0, 12.0] and 1.1 [−0.3, 2.6] (claim 3, five seeds).
- In later batches the student's drift matters more than what was distilled. Of the students of batches 3 and 4 within a KL of 0.11 from
  the base 40 of 43 gain, by 3.0 points on average; of those beyond it 12 of 13 lose, by 2.3, offline and online alike
  (`python -m scripts.evidence.drift`, [figure](evidence/switching.png)). What an entropy bonus costs follows how much farther out its
  student ends ([figure](evidence/entropy.png)). Most differences that claims 9 to 13 look for are smaller than these.
- With 16 problems and 16 responses to each, 256 in all, a teacher ends between 3 points below the base and 9 above it, and its student 13
  to 20 above it (four seeds). On-policy GRPO samples eight times [5, 13] as many responses to reach that score
  ([figure](evidence/reuse.png)). With 4,096 responses a student reaches 78 to 83 %; on-policy GRPO samples about as many for it and is
  ahead on the clock, because the campaign's updates cost more. Sampling 24 tokens is two fifths of an on-policy step here, and nearly
  three quarters in the paper.
"""  # noqa: E501


SUMMARY = ("<!-- claims: made by `make evidence` -->", "<!-- end of claims -->")
"""Lines of another page between which the number of claims by verdict is written."""
SEEDS = 8
"""Seeds of a final verdict; with fewer it is marked "so far"."""


Judged = Sequence[tuple[Claim, Finding]]
"""Claims in their order, each with its finding."""


def write_page(records: Path, page: Path, summary: Path) -> Path:
    """Write the page and its figures from existing records.

    **Arguments:**
        records: Folder of the records.
        page: Path of the page.
        summary: Another page; the number of claims by verdict goes between its lines SUMMARY.
    **Returns:** `page`.
    **Raises:** ValueError if `summary` has no such lines.
    """
    by_study = {study: read_records(records, study) for study in study_names()}
    claims = judged(by_study)
    figures = draw_all(by_study, page.parent / "evidence")
    parts = [HEAD, summary_table(claims)]
    for claim, finding in claims:
        parts += [_section(claim, finding, len(by_study[claim.study]), figures)]
        parts += [
            _follow_up(claim.title, follow_up, by_study[follow_up.study], figures)
            for follow_up in FOLLOW_UPS.get(claim.number, ())
        ]
        if single := SINGLE_RUNS.get(claim.number):
            parts.append(_single_run(claim.title, single, by_study[single.study], figures))
    page.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(page, lambda path: path.write_text("\n".join([*parts, _cost(by_study)])))
    before, begins, rest = summary.read_text().partition(SUMMARY[0])
    _, ends, after = rest.partition(SUMMARY[1])
    if not (begins and ends):
        raise ValueError(
            f"{summary}: the lines around the number of claims are missing; add "
            f"{' and '.join(SUMMARY)}"
        )
    counts = verdict_counts(claims)
    write_atomically(
        summary,
        lambda path: path.write_text(f"{before}{SUMMARY[0]}\n{counts}\n{SUMMARY[1]}{after}"),
    )
    return page


def judged(found: Mapping[str, Sequence[Record]]) -> Judged:
    """Judge every claim by the records of its study."""
    return [(claim, judge(claim.parts, found[claim.study])) for claim in CLAIMS]


def verdict_counts(claims: Judged) -> str:
    """The number of claims by verdict: `6 reproduced; 3 partly.`"""
    counts = Counter(_verdict(finding) for _, finding in claims)
    return "; ".join(f"{count} {verdict}" for verdict, count in counts.most_common()) + "."


def summary_table(claims: Judged) -> str:
    """The number of claims by verdict, and a table with one row per claim."""
    lines = [verdict_counts(claims), ""]
    lines += ["| | claim | verdict | seeds | main effect |", "|---|---|---|---|---|"]
    for claim, finding in claims:
        effect = _effect(finding.parts[0], finding.intervals[0]) if finding.intervals else ""
        lines.append(
            f"| {claim.number} | [{claim.title}](#claim-{claim.number}) | "
            f"{_verdict(finding)} | {finding.seeds} | {effect} |"
        )
    return "\n".join(lines) + "\n"


def _section(claim: Claim, finding: Finding, records: int, figures: Mapping[str, str]) -> str:
    return "\n".join(
        [
            f'<a id="claim-{claim.number}"></a>\n',
            f"## {claim.number}. {claim.title}\n",
            f"**The paper:** {claim.paper}\n",
            f"**Here:** {_verdict(finding)}, {_seeds(finding, records)}.\n",
            _comparisons(finding, "claimed"),
            *([f"{claim.remark}\n"] if claim.remark else []),
            *_shown(claim.study, claim.title, figures, 0),
        ]
    )


def _follow_up(
    title: str, follow_up: FollowUp, records: Sequence[Record], figures: Mapping[str, str]
) -> str:
    finding = judge(follow_up.parts, records)
    return "\n".join(
        [
            f"**Why:** {follow_up.explanation} Tested {_seeds(finding, len(records))}:\n",
            _comparisons(finding, "predicted"),
            *_shown(follow_up.study, f"{title}: why", figures, LOOKED_AT),
        ]
    )


def _single_run(
    title: str, single: SingleRun, records: Sequence[Record], figures: Mapping[str, str]
) -> str:
    lines = ["| comparison | found |", "|---|---|"]
    for part in single.parts:
        effect = _value(part, part.effect(records[0])) if records else "–"
        lines.append(f"| {part.what} | {effect} |")
    return "\n".join(
        [
            f"**On one seed:** {single.remark}\n",
            *lines,
            "",
            *_shown(single.study, f"{title}: one seed", figures, 0),
        ]
    )


def _seeds(finding: Finding, records: int) -> str:
    return (
        f"on {records} seeds"
        if finding.intervals
        else f"on {records} so far; an interval needs two seeds"
    )


def _comparisons(finding: Finding, expected: str) -> str:
    lines = [f"| comparison | {expected} | found | |", "|---|---|---|---|"]
    for number, part in enumerate(finding.parts):
        measured = (
            f"{_effect(part, finding.intervals[number])} | {finding.standings[number]}"
            if finding.intervals
            else "– | "
        )
        lines.append(
            f"| {part.what} | {part.side} {part.bound:g} {part.unit} | {measured} |".replace(
                " -", " −"
            )
        )
    return "\n".join(lines) + "\n"


def _shown(study: str, title: str, figures: Mapping[str, str], seed: int) -> list[str]:
    """Return the lines of the study's figure, if there is one, and of its command."""
    picture = [f"![{title}](evidence/{figures[study]})\n"] if study in figures else []
    return [*picture, f"`erpd run scripts/evidence/studies/{study}.yaml --set seed={seed}`\n"]


def _verdict(finding: Finding) -> str:
    return f"{finding.verdict} so far" if 0 < finding.seeds < SEEDS else finding.verdict


FORMS = {"points": "+.1f", "%": ".1f", "of a step": ".2f"}
"""Unit -> how its numbers are written."""


def _value(part: Part, effect: float) -> str:
    text = f"{effect:{FORMS.get(part.unit, '+.3f')}} {part.unit}"
    if part.unit.startswith("doublings"):
        text += f" (×{2**effect:.2f})"
    return text.replace("-", "−")


def _effect(part: Part, bounds: Interval) -> str:
    form = FORMS.get(part.unit, "+.3f")
    text = f"{bounds.mean:{form}} [{bounds.low:{form}}, {bounds.high:{form}}] {part.unit}"
    if part.unit.startswith("doublings"):
        text += f" (×{2**bounds.mean:.2f} [{2**bounds.low:.2f}, {2**bounds.high:.2f}])"
    return text.replace("-", "−")


def _cost(by_study: dict[str, list[Record]]) -> str:
    lines = [
        "## What it costs",
        "",
        "| study | seeds | minutes per seed | commits |",
        "|---|---|---|---|",
    ]
    for study, records in by_study.items():
        if records:
            minutes = sum(record.seconds for record in records) / len(records) / 60
            commits = ", ".join(sorted({(record.commit or "unknown")[:7] for record in records}))
            lines.append(f"| {study} | {len(records)} | {minutes:.1f} | {commits} |")
    how = (
        "The time of a study is that of its command, excluding stages that earlier studies of the "
        "seed had computed; some studies ran in parallel."
    )
    return "\n".join([*lines, "", how, ""])
