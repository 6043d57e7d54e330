"""docs/results/claims.md: what is claimed, what was found, how surely, and the figures; made
from the records alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.evidence.claims import CLAIMS
from scripts.evidence.figures import draw_all
from scripts.evidence.followups import FOLLOW_UPS
from scripts.evidence.judging import Claim, Finding, FollowUp, Interval, Part, judge
from scripts.evidence.record import Record, read_records
from scripts.evidence.running import LOOKED_AT, study_names
from tasks.host.atomic_files import write_atomically

HEAD = """# What of the paper this implementation shows at small scale

Made by `make evidence` (`python -m scripts.evidence --page` from the records alone). Every number in a table is worked out from the
records in [evidence/](evidence/), one file for each study and seed; the studies are the recipes in
[scripts/evidence/studies](../../scripts/evidence/studies).

**How it is judged**, fixed before these runs: an effect is worked out within each seed, and its 95 % interval is Student's t over seeds.
A part of a claim is *shown* when the whole interval lies on the side of the bound that the paper claims, *against* when it lies on the
other, else *open*. A claim is reproduced when every part is shown, contradicted when its first part is against, partly reproduced when
some part is shown, and otherwise not shown at this scale; with fewer than eight seeds that is a verdict so far, and intervals are wide.
Two parts were added when seeds 0 to 4 had been looked at, and say so.

**What a seed changes:** training problems, samples, the order of a batch. All seeds share one base model, 256 validation problems and 400
test problems, so intervals do not speak of other bases or problems. Learning rates, steps, betas and weights were chosen on the validation
problems with seeds 100 and above; the tables are of the test problems with seeds from 0 on.

A full run of a real model, SmolLM2-135M, is in [smollm2.md](smollm2.md).

A **why** below a claim is an explanation of what does not show as the paper has it, with what it predicts, tried on further seeds. Unless
it says otherwise it was made from seeds 0 to 2 and 100, when some main studies of seed 3 had been seen too, and that of `protocol` after
`cooler` on seed 3, and is tried on the seeds from 3 on. It does not change the verdict.

Scores are the share of right answers, AVG@K in %, at temperature 1 unless a study says otherwise; differences are in points. KL is k1 in
nats per token on fresh samples of the policy itself, from the base. A doubling is a factor of two, and −1 of them half; the factor
stands behind it.
"""  # noqa: E501


SUMMARY = ("<!-- claims: made by `make evidence` -->", "<!-- end of claims -->")
"""The lines of another page between which its table stands."""
SEEDS = 8
"""How many a verdict is to have; with fewer it is one so far."""


Judged = Sequence[tuple[Claim, Finding]]
"""Claims in their order, each with what was found."""


def write_page(records: Path, page: Path, summary: Path) -> Path:
    """Write the page and its figures from the records there are, and its table into `summary`
    between the lines of SUMMARY; the path of the page. **Raises:** ValueError: those lines are not
    there.
    """
    found = {study: read_records(records, study) for study in study_names()}
    claims = judged(found)
    figures = draw_all(found, page.parent / "evidence")
    parts = [HEAD, summary_table(claims)]
    for claim, finding in claims:
        parts += [_section(claim, finding, len(found[claim.study]), figures)]
        parts += [
            _follow_up(claim.title, one, found[one.study], figures)
            for one in FOLLOW_UPS.get(claim.number, ())
        ]
    page.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(page, lambda path: path.write_text("\n".join([*parts, _cost(found)])))
    before, begins, rest = summary.read_text().partition(SUMMARY[0])
    _, ends, after = rest.partition(SUMMARY[1])
    if not (begins and ends):
        raise ValueError(
            f"{summary}: the lines between which the table stands are not there: "
            f"{' and '.join(SUMMARY)}"
        )
    here = summary_table(claims, page.relative_to(summary.parent).as_posix())
    write_atomically(
        summary, lambda path: path.write_text(f"{before}{SUMMARY[0]}\n{here}{SUMMARY[1]}{after}")
    )
    return page


def judged(found: Mapping[str, Sequence[Record]]) -> Judged:
    """Every claim, by the records of its study."""
    return [(claim, judge(claim.parts, found[claim.study])) for claim in CLAIMS]


def summary_table(claims: Judged, page: str = "") -> str:
    """How many have which verdict, and a row for each claim. Its links lead to the claims on
    `page`, this one when empty.
    """
    counts = Counter(_verdict(one) for _, one in claims)
    lines = ["; ".join(f"{count} {verdict}" for verdict, count in counts.most_common()) + ".", ""]
    lines += ["| | claim | verdict | seeds | main effect |", "|---|---|---|---|---|"]
    for claim, one in claims:
        effect = _words(one.parts[0], one.intervals[0]) if one.intervals else ""
        lines.append(
            f"| {claim.number} | [{claim.title}]({page}#claim-{claim.number}) | {_verdict(one)} | "
            f"{one.seeds} | {effect} |"
        )
    return "\n".join(lines) + "\n"


def _section(claim: Claim, one: Finding, records: int, figures: Mapping[str, str]) -> str:
    return "\n".join(
        [
            f'<a id="claim-{claim.number}"></a>\n',
            f"## {claim.number}. {claim.title}\n",
            f"**The paper:** {claim.paper}\n",
            f"**Here:** {_verdict(one)}, {_seeds(one, records)}.\n",
            _comparisons(one, "claimed"),
            *([f"{claim.remark}\n"] if claim.remark else []),
            *_shown(claim.study, claim.title, figures, 0),
        ]
    )


def _follow_up(
    title: str, one: FollowUp, records: Sequence[Record], figures: Mapping[str, str]
) -> str:
    finding = judge(one.parts, records)
    return "\n".join(
        [
            f"**Why:** {one.explanation} Tried {_seeds(finding, len(records))}:\n",
            _comparisons(finding, "predicted"),
            *_shown(one.study, f"{title}: why", figures, LOOKED_AT),
        ]
    )


def _seeds(one: Finding, records: int) -> str:
    return (
        f"on {records} seeds"
        if one.intervals
        else f"on {records} so far; an interval takes two seeds"
    )


def _comparisons(one: Finding, expected: str) -> str:
    lines = [f"| comparison | {expected} | found | |", "|---|---|---|---|"]
    for number, part in enumerate(one.parts):
        found = (
            f"{_words(part, one.intervals[number])} | {one.standings[number]}"
            if one.intervals
            else "– | "
        )
        lines.append(
            f"| {part.what} | {part.side} {part.bound:g} {part.unit} | {found} |".replace(
                " -", " −"
            )
        )
    return "\n".join(lines) + "\n"


def _shown(study: str, title: str, figures: Mapping[str, str], seed: int) -> list[str]:
    """The figure, if there is one, and the command."""
    picture = [f"![{title}](evidence/{figures[study]})\n"] if study in figures else []
    return [*picture, f"`erpd run scripts/evidence/studies/{study}.yaml --set seed={seed}`\n"]


def _verdict(one: Finding) -> str:
    return f"{one.verdict} so far" if 0 < one.seeds < SEEDS else one.verdict


def _words(part: Part, found: Interval) -> str:
    form = {"points": "+.1f", "%": ".1f", "of a step": ".2f"}.get(part.unit, "+.3f")
    words = f"{found.mean:{form}} [{found.low:{form}}, {found.high:{form}}] {part.unit}"
    if part.unit.startswith("doublings"):
        words += f" (×{2**found.mean:.2f} [{2**found.low:.2f}, {2**found.high:.2f}])"
    return words.replace("-", "−")


def _cost(found: dict[str, list[Record]]) -> str:
    lines = [
        "## What it costs",
        "",
        "| study | seeds | minutes a seed | commits |",
        "|---|---|---|---|",
    ]
    for study, records in found.items():
        if records:
            minutes = sum(one.seconds for one in records) / len(records) / 60
            commits = ", ".join(sorted({(one.commit or "unknown")[:7] for one in records}))
            lines.append(f"| {study} | {len(records)} | {minutes:.1f} | {commits} |")
    how = (
        "Seconds of a study are those of its command, without what earlier studies of the "
        "seed had worked out; some ran beside others."
    )
    return "\n".join([*lines, "", how, ""])
