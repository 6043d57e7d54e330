"""Hostile text from models, data and users is shown as bounded text in one line, never obeyed."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from markdown_it import MarkdownIt
from pages import Page
from rich.console import Console
from study_lab import Lab, study_of

from deployments.commands import schedule
from deployments.output.evaluation import print_evaluation
from deployments.output.lineage import campaign_table, lineage_tree
from deployments.output.progress_bars import Display
from erpd_core.evaluation_details import BenchmarkDetails, ProblemResult
from erpd_core.refs import Decision, EvalReport, Score
from flows.evaluation import EvaluationForm, evaluation_markdown
from flows.inspect.campaigns import campaign_summaries
from flows.inspect.lineage import lineage_lines, resolve_artifact
from flows.live.publish import campaign_markdown
from flows.recipes.load import load_recipe
from flows.reports.campaign import write_report
from flows.reports.results import rich_table, table_rows
from flows.reports.study import write_study_report
from flows.reports.study_table import study_markdown, study_rows
from flows.steps.human_decision import evidence_text
from tasks.execution.progress import Progress
from tasks.registry import Registry
from tasks.store import Store
from tasks.untrusted.display_text import SHOWN, markdown, one_line

TEXTS = {
    "script": "<script>window.sprung = 1</script>",
    "end of a script": "</script><script>window.sprung = 1</script>",
    "end of a text": "</title></style></pre></textarea><img src=x onerror='window.sprung = 1'>",
    "attribute": '" onmouseover="window.sprung = 1" x=\'',
    "template": "{{ 7 * 191 }}{% raw %}",
    "link": "[here](javascript:sprung=1) ![x](http://evil.example/x.png)",
    "end of a link": "](javascript:sprung=1)",
    "reference": "[here]: javascript:sprung=1",
    "markup": "[bold red]alarm[/] [link=http://evil.example]x[/link] [/nothing]",
    "terminal": "\x1b[2J\x1b[31mred\x1b]0;title\x07\x9b1A\rover",
    "emphasis": "**Approved** ~~not~~ _so_ https://evil.example www.evil.example me@evil.example",
    "table": "a | b || c |\n|---|---|\n| d \\| e \\",
    "bidi": "\u202egnp.exe\u2066 x\u200f",
    "lines": "one\ntwo\r\nthree\u2028four\x0bfive",
    "heading": "\n# Heading\n\n- list\n\n```\ncode",
    "long": "x" * 1_000_000,
}
UNSEEN = ("\x1b", "\x07", "\x9b", "\r", "\u202e", "\u2066", "\u200f", "\u2028", "\x0b")
NAME = 200
"""Characters of the text that are used as a benchmark's name, which pictures show."""
MARKED = {"script", "img", "a", "h1", "ul", "li", "pre", "code", "hr", "strong", "em", "s"}

texts = pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)


class Written:
    """A campaign whose free texts and names from data are all the same hostile text."""

    def __init__(self, folder: Path, text: str) -> None:
        self.registry, self.store = (
            Registry(f"sqlite:///{folder}/registry.db"),
            Store(folder / "store"),
        )
        config = load_recipe("tiny").model_dump(mode="json") | {"description": text}
        self.registry.campaign_started("tiny-1", "tiny", "tiny", config, "0123abc")
        for index, role in enumerate(("base", "student")):
            self.registry.record_artifact(
                f"policy-{role}", "policy", {}, meta={"ref": {"role": role, "step": 0}}
            )
            self.registry.attach("tiny-1", index, role, f"policy-{role}")
            score = Score(avg=0.5, k=8, problems=20, ci95=(0.4, 0.6))
            report = EvalReport(
                policy=f"policy-{role}",
                scores={text[:NAME]: score},
                kl_old=0.1,
                kl_base=0.1,
                entropy=0.2,
                length=9.0,
            )
            self.registry.record_report("tiny-1", index, role, report)
        self.decision = Decision(
            strategy="S1",
            reason=text,
            evidence={"asked": {"by": text, "why": text}},
            alternatives={"S2": text},
        )
        self.registry.record_decision("tiny-1", 1, self.decision)

    def page(self, folder: Path) -> Page:
        return Page(write_report(self.registry, self.store, "tiny-1", folder))


def harmless(page: Page, text: str) -> None:
    assert not page.names & {"script", "object", "iframe", "textarea"}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert not [
        value
        for _, attributes in page.tags
        for value in attributes.values()
        if value and value.startswith(("javascript", "http"))
    ]
    assert not [letter for letter in UNSEEN if letter in page.source], ascii(text[:80])
    assert all(
        str(attributes["src"]).startswith("data:") for tag, attributes in page.tags if tag == "img"
    )


@pytest.mark.slow
@texts
def test_the_report_of_a_campaign_shows_it(text: str, tmp_path: Path):
    page = Written(tmp_path, text).page(tmp_path / "out")
    harmless(page, text)
    if text.isprintable():
        assert page.text.count(text) >= 3  # description, reason, alternative


@pytest.mark.slow
@texts
def test_the_report_of_a_study_shows_it(text: str, study_lab: Lab):
    study_lab.begin("ce")
    study_lab.measure("ce", 1, "student", "s", 0.1, 0.1, test=0.6)
    study = study_of(("ce",), description=text)
    folder = study_lab.out
    harmless(
        Page(
            write_study_report(
                study_lab.registry, study_lab.store, study, study_lab.campaigns, folder
            )
        ),
        text,
    )


# ----------------------------------------------------------------------------------------- Markdown


def rendered(source: str, folder: Path) -> Page:
    """Markdown rendered as by the worst viewer, which passes HTML through."""
    path = folder / "rendered.html"
    path.write_text(
        MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(source),
        encoding="utf-8",
    )
    return Page(path)


@texts
def test_it_is_one_cell_of_a_table(text: str, tmp_path: Path):
    page = rendered(f"| a | b |\n|---|---|\n| {markdown(text)} | end |\n", tmp_path)
    assert not page.names & MARKED
    assert [len(row) for row in page.rows] == [2, 2] and page.rows[1][1] == "end"
    assert len(page.source) < 4 * SHOWN


def test_addresses_are_no_links_where_they_stand_bare():
    """GitHub's Markdown, which Prefect shows, would turn bare addresses into links."""
    assert (
        markdown("see https://a.bc, www.a.bc, me@a.bc") == r"see https\://a.bc, www\.a.bc, me\@a.bc"
    )
    assert (
        markdown("AVG@16: -3.2 points, 0.55 (0.5 to 0.6)")
        == "AVG@16: -3.2 points, 0.55 (0.5 to 0.6)"
    )


@pytest.mark.parametrize("text", ["# a", "> a", "- a", "+ a", "1. a", "2) a", "---", "==="])
def test_a_line_begins_no_block(text: str, tmp_path: Path):
    page = rendered(f"before\n\n{markdown(text)}\n", tmp_path)
    assert page.names <= {"p"} and page.text.split() == ["before", *text.split()]


@texts
def test_artifacts_of_a_run_hold_no_markup_of_it(text: str, tmp_path: Path):
    campaign = Written(tmp_path, text)
    rows = table_rows(campaign.registry, "tiny-1")
    sides = {**rows[0].report.model_dump(mode="json"), "comparison": {}}
    sources = {
        "campaign": campaign_markdown(rows),
        "study": study_markdown(study_rows(campaign.registry, {"ce": "tiny-1"})),
        "evidence": evidence_text(campaign.decision.evidence, campaign.decision),
        "evaluation": evaluation_markdown(sides, EvaluationForm(model=text)),
    }
    for name, source in sources.items():
        page = rendered(source, tmp_path)
        assert not page.names & (
            MARKED - ({"ul", "li", "strong"} if name == "evidence" else set())
        ), name
        assert len({len(row) for row in page.rows}) == 1, name
        assert not [letter for letter in UNSEEN if letter in source] and len(source) < 12 * SHOWN, (
            name
        )


# ----------------------------------------------------------------------------------------- terminal


def printed(what: Any) -> str:
    """Output on a terminal, without the console's own colour codes."""
    file = io.StringIO()
    console = Console(
        file=file, width=10_000, force_terminal=True, color_system=None, legacy_windows=False
    )
    console.print(what)
    return file.getvalue()


def calm(shown: str, text: str) -> None:
    assert not [
        letter for letter in UNSEEN if letter in shown.replace("\x1b[1m", "").replace("\x1b[0m", "")
    ], ascii(shown[:300])
    if "[" in text:
        start = one_line(text)[:12]
        assert start in shown, "markup is shown, not obeyed"


@texts
def test_the_tree_and_tables_show_it_on_a_terminal(text: str, tmp_path: Path):
    campaign = Written(tmp_path, text)
    tree = printed(
        lineage_tree(
            lineage_lines(campaign.registry, resolve_artifact(campaign.registry, "policy-student"))
        )
    )
    assert "policy-student" in tree and len(tree.splitlines()) == 1 and len(tree) < 4 * SHOWN
    calm(tree, text)
    calm(printed(rich_table(table_rows(campaign.registry, "tiny-1"))), text)
    calm(printed(campaign_table(campaign_summaries(campaign.registry))), "")


@texts
def test_progress_shows_it_on_a_terminal(text: str, tmp_path: Path):
    file, path = io.StringIO(), tmp_path / "a.events.jsonl"
    console = Console(file=file, width=10_000, force_terminal=True, color_system=None)
    display = Display({path: ""}, console)
    Progress(path, text[:NAME])(1, 2, note=text[:NAME])
    display._read()
    bars = printed(display.progress.get_renderable())
    calm(bars, text[:NAME])


@texts
def test_schedules_show_it_on_a_terminal(text: str, monkeypatch: pytest.MonkeyPatch):
    made = SimpleNamespace(
        slug=text,
        id=7,
        schedule=SimpleNamespace(cron=text),
        parameters={"what": {text: text}},
        active=True,
    )
    monkeypatch.setattr(schedule, "schedules", lambda: [("campaign", 1, made)])
    file = io.StringIO()
    schedule.show_schedules(
        Console(file=file, width=10_000, force_terminal=True, color_system=None)
    )
    calm(file.getvalue().replace("\x1b[3m", ""), text)


@texts
def test_an_evaluation_shows_it_on_a_terminal(text: str):
    result = {
        "scores": {text: Score(avg=0.5, k=8, problems=1, ci95=(0.4, 0.6)).model_dump()},
        "details": {
            text: BenchmarkDetails(
                pass_at_k={8: 0.5},
                majority=0.5,
                majority_ci95=(0.4, 0.6),
                truncated=0.5,
                unanswered=0.0,
                length=9.0,
                entropy=0.1,
                kl_old=0.0,
                kl_base=0.0,
            ).model_dump(mode="json")
        },
        "sampling": {"temperature": 0.6, "top_p": 0.95, "max_new_tokens": 9},
        "judge": {text: {"outcomes": {text: 1}, "calls": 1, "spent": text}},
        "per_problem": text,
    }
    rows = [
        ProblemResult(
            benchmark=text,
            problem=text,
            gold=text,
            samples=8,
            solved=4,
            length=9.0,
            truncated=4,
            unanswered=0,
            answer=text,
            votes=3,
        ).model_dump()
    ]
    for against in (
        {},
        {"against": {key: result[key] for key in ("scores", "details", "sampling")}},
    ):
        comparison = {
            "difference": 0.1,
            "ci95": (0.0, 0.2),
            "p_value": 0.01,
            "beyond_noise": True,
            "problems": 1,
        }
        both = result | against | ({"comparison": {text: comparison}} if against else {})
        shown = (
            rows
            if not against
            else [rows[0] | {"difference": 0.5, "against_solved": 0, "against_samples": 8}]
        )
        file = io.StringIO()
        console = Console(file=file, width=200, force_terminal=True, color_system=None)
        print_evaluation(both, shown, {"model": text, "against": f"{text} too"}, console)
        calm(file.getvalue().replace("\x1b[3m", ""), text)
        assert len(file.getvalue()) < 40 * SHOWN
