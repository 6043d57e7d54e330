"""`erpd report` on real registries and stores: content and safety of the page, and partial data."""

from __future__ import annotations

import base64
import io
import json
import math
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread
from pages import HOSTILE, Page
from rich.console import Console

from erpd_core.refs import Decision, EvalReport, Score
from flows.recipes.load import load_recipe
from flows.reports.campaign import PNGS, command, evidence_lines, write_report
from flows.reports.figures.campaign import pareto_front
from flows.reports.results import rich_table, summary, table_rows
from tasks.registry import Registry
from tasks.store import Store

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


class Lab:
    """A registry and a store with a campaign, recorded as flows record it."""

    def __init__(self, folder: Path) -> None:
        self.registry = Registry(f"sqlite:///{folder}/registry.db")
        self.store = Store(folder / "store")
        self.out, self.events = folder / "out", folder / "events.jsonl"

    def start(self, recipe: str = "tiny", settings: tuple[str, ...] = (), **changes: Any) -> Lab:
        config = load_recipe(recipe, settings).model_dump(mode="json") | changes
        self.registry.campaign_started("tiny-1", "tiny", recipe, config, "0123abc")
        self.policy("base", "base", 0, 0)
        return self

    def policy(self, name: str, role: str, step: int, iteration: int) -> str:
        return self._artifact(
            "policy", name, {"id": f"policy-{name}", "role": role, "step": step}, iteration, role
        )

    def measure(
        self, iteration: int, role: str, policy: str, kl_old: float, kl_base: float, **scores: float
    ) -> None:
        """Record a report; every score has an interval of 3 points to each side."""
        measured = {
            name: Score(avg=avg, k=8, problems=200, ci95=(avg - 0.03, avg + 0.03))
            for name, avg in scores.items()
        }
        report = EvalReport(
            policy=f"policy-{policy}",
            scores=measured,
            kl_old=kl_old,
            kl_base=kl_base,
            entropy=0.25,
            length=8.5,
        )
        self.registry.record_report("tiny-1", iteration, role, report)

    def evaluate(
        self, iteration: int, role: str, policy: str, turned: int | None, **pass_at_8: float
    ) -> None:
        """Store an evaluation's details and, with `turned`, its judge's outcomes."""
        ref = {"policy": f"policy-{policy}"}
        with self.store.build(
            "evaluation", {"policy": policy, "iteration": iteration, "role": role}, {}, 1
        ) as build:
            assert build is not None
            details = {
                name: {
                    "pass_at_k": {"1": 0.5, "8": value},
                    "majority": None,
                    "majority_ci95": None,
                    "truncated": 0.031,
                    "unanswered": 0.25,
                    "length": 812.54,
                    "entropy": 0.31,
                    "kl_old": 0.01,
                    "kl_base": 0.02,
                }
                for name, value in pass_at_8.items()
            }
            build.put("details.json", lambda path: path.write_text(json.dumps(details)))
            if turned is not None:
                judged = {
                    "id": "judged-x",
                    "rollouts": "rollouts-x",
                    "outcomes": {"same": turned, "different": 3},
                    "calls": 9,
                    "tokens": 1,
                    "spent": None,
                }
                build.put(
                    "judge.json",
                    lambda path: path.write_text(json.dumps(dict.fromkeys(pass_at_8, judged))),
                )
            evaluation = build.commit({"ref": ref}).id
        self.registry.record_artifact(evaluation, "evaluation", {}, meta={"ref": ref}, seconds=1.0)
        self.registry.attach("tiny-1", iteration, f"{role} evaluation", evaluation)

    def train(
        self, iteration: int, role: str, steps: int, validation: dict[int, float] | None = None
    ) -> None:
        with self.store.build("training", {"iteration": iteration, "role": role}, {}, 1) as build:
            assert build is not None
            build.put(
                "records.jsonl",
                lambda path: path.write_text(
                    "".join(json.dumps(record(step)) + "\n" for step in range(1, steps + 1))
                ),
            )
            training = build.commit({"ref": {}}).id
        self.registry.record_artifact(training, "training", {}, meta={}, seconds=9.1)
        self.registry.attach("tiny-1", iteration, f"{role} training", training)
        for step, accuracy in (validation or {}).items():
            ref = {"policy": {"id": "policy-t", "role": role, "step": step}, "accuracy": accuracy}
            self._artifact(
                "rollouts", f"{role}{iteration}at{step}", ref, iteration, f"{role} validation"
            )

    def decide(
        self, iteration: int, strategy: Any, reason: str = "the teacher is better", **evidence: Any
    ) -> None:
        decision = Decision(
            strategy=strategy, reason=reason, evidence=evidence, alternatives={"S2": "S1 applies"}
        )
        self.registry.record_decision("tiny-1", iteration, decision)

    def _artifact(
        self, kind: Any, name: str, ref: dict[str, Any], iteration: int, role: str
    ) -> str:
        self.registry.record_artifact(f"{kind}-{name}", kind, {}, meta={"ref": ref}, seconds=0.5)
        self.registry.attach("tiny-1", iteration, role, f"{kind}-{name}")
        return name

    def log(self, label: str, at: float, status: str, **fields: Any) -> None:
        """Append an event, `at` seconds after the campaign began."""
        event = {"label": label, "time": 1.8e9 + at, "status": status, **fields}
        with self.events.open("a") as file:
            file.write(json.dumps(event) + "\n")

    def write(self, folder: Path | None = None) -> Page:
        folder = folder or self.out
        return Page(write_report(self.registry, self.store, "tiny-1", folder, self.events))


def record(step: int) -> dict[str, float]:
    wave = math.sin(step)
    return {
        "step": step,
        "loss": 0.6 + 0.1 / step + 0.01 * wave,
        "grad_norm": 0.3 + 0.1 * wave,
        "entropy": 0.1 + 0.2 / step,
        "kl_old_theta_on_old_batch": 0.01 * step,
        "prob_positive": 0.95 - 0.1 / step,
        "prob_negative": 0.6 + 0.1 / step,
        "ratio_mean": 1.0,
        "ratio_max": 1.0 + step,
        "ratio_min": math.exp(-step / 4),
        "explained_variance": 0.1 + 0.02 * wave,
        "clip_fraction": 0.05,
    }


def run_campaign(lab: Lab) -> None:
    """Record three iterations: a student keeps most of a gain, one exceeds its teacher, a stop."""
    lab.measure(0, "base", "base", 0.0, 0.0, test=0.500)
    lab.policy("teacher1", "teacher", 20, 1)
    lab.policy("student1", "student", 16, 1)
    lab.train(1, "teacher", 60, {20: 0.81, 40: 0.79, 60: 0.74})
    start = {"avg": 0.5, "k": 8, "problems": 128, "ci95": [0.47, 0.53]}
    lab.decide(
        1, "S1", start=start, teacher_minus_start=0.312, standard_error=0.019, teacher_step=20
    )
    lab.train(1, "student", 16)
    lab.evaluate(0, "base", "base", None, test=0.75)
    lab.evaluate(1, "student", "student1", 17, test=0.925)
    lab.measure(1, "teacher", "teacher1", 0.20, 0.20, test=0.800)
    lab.measure(1, "student", "student1", 0.05, 0.05, test=0.770)
    lab.registry.iteration("tiny-1", 1, "completed", {"rollouts": 3.0, "teacher": 9.25})
    lab.policy("unlearned2", "unlearned", 120, 2)
    lab.policy("student2", "student", 16, 2)
    lab.train(2, "unlearned", 120)
    lab.decide(2, "S2", "the strong teacher has run out")
    lab.measure(2, "teacher", "unlearned2", 1.60, 1.70, test=0.300)
    lab.measure(2, "student", "student2", 0.04, 0.08, test=0.812)
    lab.decide(3, "stop", "no strategy is left")
    lab.policy("teacher3", "teacher", 60, 3)
    lab.measure(3, "teacher", "teacher3", 0.30, 0.40, test=0.800)
    lab.measure(3, "student", "student2", 0.0, 0.08, test=0.812)
    where = {"node": "box", "pid": 7, "cpus": 2, "gpus": 0.0, "nodes": {"box": [4, 0]}}
    lab.log("session", 0.0, "begins", pid=6)
    lab.log("1: train teacher (ce, 60 steps)", 5.0, "started", phase="teacher", resource=where)
    lab.log("1: train teacher (ce, 60 steps)", 45.0, "finished")
    lab.log("session", 50.0, "ends")
    lab.registry.campaign_finished("tiny-1")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path)
    yield lab
    lab.registry.close()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A finished campaign with its report; tests only read it."""
    lab = Lab(tmp_path_factory.mktemp("finished")).start()
    run_campaign(lab)
    lab.write()
    yield lab
    lab.registry.close()


@pytest.fixture(scope="module")
def page(finished: Lab) -> Page:
    return Page(finished.out / "report.html")


def test_the_table_holds_every_measured_policy_in_order(finished: Lab, page: Page):
    assert page.row("base") == [
        "base",
        "",
        "50.0 [47.0, 53.0]",
        "",
        "0.000",
        "0.000",
        "0.250",
        "8.5",
        "0",
    ]
    assert page.row("teacher 1") == [
        "teacher 1",
        "",
        "80.0 [77.0, 83.0]",
        "+30.0",
        "0.200",
        "0.200",
        "0.250",
        "8.5",
        "20",
    ]
    assert page.row("student 1") == [
        "student 1",
        "S1",
        "77.0 [74.0, 80.0]",
        "+27.0",
        "0.050",
        "0.050",
        "0.250",
        "8.5",
        "16",
    ]
    names = [row.name for row in table_rows(finished.registry, "tiny-1")]
    assert names == [
        "base",
        "teacher 1",
        "student 1",
        "teacher 2",
        "student 2",
        "teacher 3",
        "student 3",
    ]
    assert page.row("teacher 2 (unlearned run)")[3] == "−20.0"
    assert page.row("student 3 (its start, kept)")[1] == "stop"


def test_more_of_each_benchmark_is_shown_where_the_store_has_it(page: Page):
    rest = ["–", "3.1", "25.0", "–", "812.5", "0.310", "0.010", "0.020"]
    more = {row[0]: row for row in page.rows if row[1:2] == ["test"]}
    assert more.keys() == {"base", "student 1"}
    assert more["base"] == ["base", "test", "8", "75.0", *rest]
    rest[3] = "17"
    assert more["student 1"] == ["student 1", "test", "8", "92.5", *rest]


def test_the_best_student_is_the_one_that_was_made_not_the_one_kept_at_a_stop(
    finished: Lab, page: Page
):
    assert [row.name for row in table_rows(finished.registry, "tiny-1") if row.best] == [
        "student 2"
    ]
    best = [
        attributes
        for tag, attributes in page.tags
        if tag == "tr" and "best" in (attributes.get("class") or "")
    ]
    assert len(best) == 1


def test_the_summary_says_what_came_out_in_numbers_that_can_be_checked_by_hand(
    finished: Lab, page: Page
):
    sentences = summary(table_rows(finished.registry, "tiny-1"))
    assert sentences[0] == (
        "The best student (iteration 2) scores 81.2 % (test): +31.2 points against base (50.0 %), "
        "at 0.080 nats per token from it. "
        "The two 95 % intervals do not overlap."
    )
    # 27 of 30 points; 0.05 of 0.20 nats
    assert sentences[1] == (
        "Iteration 1 (S1): the student kept 90 % of the teacher's gain (+27.0 of +30.0 points) at "
        "25 % of its KL to old "
        "(0.050 against 0.200 nats per token)."
    )
    # the start of iteration 2 is the student of iteration 1: 30 - 77 points, 81.2 - 77 points, 0.04
    # of 1.6 nats
    assert (
        "not clearly better than its start (−47.0 points); the student changed by +4.2 points at "
        "2 % of its KL" in sentences[2]
    )
    assert sentences[3] == "Iteration 3 stopped: its start was kept unchanged."
    assert all(sentence in page.text for sentence in sentences)


def test_decisions_are_told_in_words(page: Page):
    assert "Iteration 1, S1: the teacher is better" in page.text
    assert page.row("Start on validation")[1] == "50.0 % [47.0, 53.0], AVG@8 on 128 problems"
    assert page.row("Teacher minus start, paired by problem")[1] == "+31.2 points"
    assert page.row("Standard error of that difference")[1] == "1.9 points"
    assert page.row("Not S2")[1] == "S1 applies"


def test_evidence_of_any_shape_is_shown():
    shown = evidence_lines(
        {
            "teacher_minus_student": {"1": {"difference": -0.02, "standard_error": 0.01}},
            "new_key": [1, {"a": None}],
        }
    )
    assert shown == [
        ("Teacher minus earlier students", "iteration 1: −2.0 points, standard error 1.0"),
        ("new key", "1, a: None"),
    ]


def test_pictures_are_whole_and_the_same_in_the_page_and_beside_it(finished: Lab, page: Page):
    images = [str(attributes["src"]) for tag, attributes in page.tags if tag == "img"]
    embedded = [
        base64.b64decode(image.removeprefix("data:image/png;base64,"), validate=True)
        for image in images
    ]
    assert sorted(embedded) == sorted((finished.out / name).read_bytes() for name in PNGS)
    for image in embedded:
        height, width, _ = imread(io.BytesIO(image), format="png").shape
        assert width > 800 and height > 200


def test_the_timeline_is_a_sentence_a_picture_and_a_row_of_each_session(page: Page):
    # 2 of 4 CPUs for 40 of 50 s: 80 of 200 CPU-seconds
    assert (
        "Idle: 60.0 % of the CPU-seconds (10.0 % in start-up, 10.0 % in close-down, 40.0 % between "
        "stages or next to them), over 50 s on 4 CPUs." in page.text
    )
    row = ["1", "2027-01-15 08:00:00 UTC", "–", "50.0", "4 CPUs", "1", "0", "0", "5.0", "5.0"]
    assert [*row, "60.0"] in page.rows
    alternative = [str(attributes["alt"]) for tag, attributes in page.tags if tag == "img"]
    assert any("Timeline: 50 s in 1 session, 60.0 % idle" in text for text in alternative)


def test_the_page_asks_for_nothing_outside_itself(page: Page):
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "action"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
    assert not page.names & {"script", "iframe", "object", "base"}
    assert "url(" not in page.source and "@import" not in page.source


def test_hostile_text_stays_text(lab: Lab):
    lab.start(description=HOSTILE)
    lab.measure(0, "base", "base", 0.0, 0.0, **{"te$t_{<b>": 0.5})
    lab.decide(1, "S1", reason=HOSTILE, **{HOSTILE: HOSTILE})
    page = lab.write()
    assert not page.names & {"script", "b"}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert page.text.count(HOSTILE) >= 4  # description, config, reason, evidence


def test_the_same_data_gives_the_same_bytes(finished: Lab, tmp_path: Path):
    again = tmp_path / "elsewhere"
    finished.write(again)
    names = sorted(path.name for path in finished.out.iterdir())
    assert names == sorted([*PNGS, "report.html"])
    assert all((finished.out / name).read_bytes() == (again / name).read_bytes() for name in names)


def test_a_campaign_that_has_only_begun_has_a_page(lab: Lab):
    page = lab.start().write()
    assert (
        "Nothing has been measured yet." in page.text
        and "This campaign is still running" in page.text
    )
    assert "img" not in page.names


def test_a_killed_campaign_shows_what_there_is(lab: Lab):
    lab.start()
    lab.measure(0, "base", "base", 0.0, 0.0, test=0.5)
    lab.registry.iteration("tiny-1", 1)
    lab.train(1, "teacher", 1, {1: 0.6})
    lab.registry.campaign_finished("tiny-1", "killed")
    page = lab.write()
    assert "The base scores 50.0 % (test); no student has been measured yet." in page.text
    assert (
        "Iteration 1 (running): not decided yet." in page.text
        and "This campaign was killed" in page.text
    )
    assert {path.name for path in lab.out.glob("*.png")} == {"score_vs_kl.png", "teacher.png"}


def test_lost_files_and_impossible_numbers_do_not_stop_a_report(lab: Lab):
    """With lost files and a NaN KL the page omits curves and figures, and old pictures go."""
    lab.start()
    lab.train(1, "student", 2)
    lab.measure(0, "base", "base", 0.0, 0.0, test=0.5)
    lab.measure(1, "teacher", "teacher1", math.nan, math.nan, test=0.8)
    lab.write()
    assert {path.name for path in lab.out.glob("*.png")} == {"score_vs_kl.png", "student.png"}
    lab.store.discard(lab.store.artifacts("training")[0])
    assert lab.write().row("teacher 1")[4:6] == ["–", "–"]
    assert {path.name for path in lab.out.glob("*.png")} == {"score_vs_kl.png"}


def test_the_command_asks_for_the_same_config_again(lab: Lab):
    settings = (
        "seed=3",
        "teacher.loss={kind: sapo}",
        "runtime.ray='off'",
        "teacher.optimizer.lr=1e-5",
        "description=it's <odd> & long",
    )
    line, exact = command(lab.start(settings=settings).registry.campaign("tiny-1"))
    words = shlex.split(line)
    assert exact and words[:3] == ["erpd", "run", "tiny"]
    assert load_recipe("tiny", [word for word in words[3:] if word != "--set"]) == load_recipe(
        "tiny", settings
    )


def test_a_recipe_that_is_gone_is_said_to_be_gone(lab: Lab):
    config = load_recipe("tiny").model_dump(mode="json")
    lab.registry.campaign_started("tiny-1", "tiny", "gone; rm -rf.yaml", config)
    assert command(lab.registry.campaign("tiny-1")) == ("erpd run 'gone; rm -rf.yaml'", False)
    assert "save the frozen config below as a YAML file" in lab.write().text


def test_the_terminal_shows_the_same_numbers(finished: Lab):
    console = Console(width=110, file=io.StringIO())
    console.print(rich_table(table_rows(finished.registry, "tiny-1")))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    student = next(line for line in lines if "student 1" in line)
    assert student.replace("│", " ").split() == [
        "student",
        "1",
        "S1",
        "77.0",
        "[74.0,",
        "80.0]",
        "0.050",
        "0.050",
        "0.250",
        "8.5",
        "16",
    ]


def test_an_unknown_campaign_is_refused(lab: Lab):
    with pytest.raises(LookupError, match="nothing"):
        write_report(lab.registry, lab.store, "nothing", lab.out)
    assert not lab.out.exists()


def test_the_pareto_front_keeps_whom_no_other_beats():
    assert pareto_front([(0.3, 0.9), (0.0, 0.5), (0.2, 0.7), (0.1, 0.8), (0.3, 0.6)]) == [
        (0.0, 0.5),
        (0.1, 0.8),
        (0.3, 0.9),
    ]


def test_a_report_needs_neither_torch_nor_prefect():
    code = (
        "import flows.reports.campaign, flows.reports.figures.campaign, sys; "
        "print(sorted({'torch', 'prefect', 'ray', 'mlflow'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
