"""A study's report on real registries and stores: every policy once, beside the paper's numbers, safe, whole, at any stage of the study."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
from matplotlib.image import imread
from pages import HOSTILE, Page

from erpd_core.refs import Decision, EvalReport, Score
from flows.comparison import Entry, Gain, entries, gain_over, signed, study_markdown
from flows.paper import load_paper
from flows.recipes import load_recipe
from flows.results import Row
from flows.studies import Arm, Picture, Study, load_study, paper_row
from flows.study_pictures import timeline
from flows.study_report import settings_apart, study_command, write_efficiency_page, write_study_report
from tasks import arm_style, signal_figures, study_figures
from tasks.figures import png
from tasks.registry import Registry
from tasks.store import Store

ROOT = Path(__file__).parents[2]
EVERY = get_args(Picture)


class Lab:
    """A registry and a store with the campaigns of a study in them, written the way flows write them."""

    def __init__(self, folder: Path) -> None:
        self.registry = Registry(f"sqlite:///{folder}/registry.db")
        self.store = Store(folder / "store")
        self.out = folder / "reports" / "study"
        self.campaigns: dict[str, str] = {}

    def begin(self, arm: str) -> str:
        """An arm's campaign, its base measured on two benchmarks, one of which the paper has as well."""
        campaign = self.campaigns[arm] = f"study-{arm}-0123456789"
        self.registry.campaign_started(campaign, f"study-{arm}", "study", {}, "0123abc")
        self.measure(arm, 0, "base", "base", 0.0, 0.0, test=0.5, hmmt_feb_25=0.4)
        return campaign

    def measure(self, arm: str, iteration: int, role: str, policy: str, kl_old: float, kl_base: float, **scores: float) -> None:
        """Every score has an interval of 3 points to each side."""
        found = {name: Score(avg=avg, k=8, problems=200, ci95=(avg - 0.03, avg + 0.03)) for name, avg in scores.items()}
        report = EvalReport(policy=f"policy-{policy}", scores=found, kl_old=kl_old, kl_base=kl_base, entropy=0.25, length=8.5)
        self.registry.record_artifact(f"policy-{policy}", "policy", {}, meta={"ref": {"role": role, "step": 10}})
        self.registry.attach(self.campaigns[arm], iteration, role, f"policy-{policy}")
        self.registry.record_report(self.campaigns[arm], iteration, role, report)

    def decide(self, arm: str, iteration: int, strategy: Any = "S1") -> None:
        self.registry.record_decision(self.campaigns[arm], iteration, Decision(strategy=strategy, reason="so it is"))

    def file(self, kind: Any, arm: str, iteration: int, role: str, name: str, text: str, question: str, seconds: float = 40.0) -> None:
        """An artifact with one file in it. The same question is the same artifact, in whichever arm."""
        with self.store.build(kind, {"q": question}, {}, 1) as build:
            if build is not None:
                build.put(name, lambda path: path.write_text(text))
                build.commit({"ref": {}})
        identity = next(one for one in self.store.artifacts(kind) if self.store.manifest(one).question == {"q": question})
        self.registry.record_artifact(identity, kind, {}, meta={}, seconds=seconds)
        self.registry.attach(self.campaigns[arm], iteration, role, identity)

    def train(self, arm: str, role: str, question: str, kept: dict[int, float], **more: float) -> None:
        records = [{"step": step, "loss": 1 / step, "entropy": 0.2, **more} for step in range(1, 5)]
        self.file("training", arm, 1, f"{role} training", "records.jsonl", "\n".join(json.dumps(one) for one in records), question)
        for step, accuracy in kept.items():
            ref = {"policy": {"id": "policy-t", "role": role, "step": step}, "accuracy": accuracy}
            self.registry.record_artifact(f"rollouts-{question}-{step}", "rollouts", {}, meta={"ref": ref})
            self.registry.attach(self.campaigns[arm], 1, f"{role} validation", f"rollouts-{question}-{step}")

    def signal(self, arm: str) -> None:
        histogram = {"counts": [0, 5, 900, 70], "edges": [-8.0, 8.0], "mean": 0.2, "quantiles": [0.0], "tokens": 975}
        found = {
            "deviation": [{"teacher": 10.0**-n, "student": 10.0**-n / 2, "ratio": 0.5, "tokens": 9} for n in range(4)],
            "teacher": {"positive": histogram, "negative": histogram},
            "student": {"positive": histogram},
        }
        self.file("signal", arm, 1, "signal", "signal.json", json.dumps(found), f"signal of {arm}")

    def run(self) -> Lab:
        """Two arms that share base and teacher and differ in the student, one trained on policy, and one that was killed."""
        for arm, student in (("ce", 0.65), ("ce.kl", 0.6)):
            self.begin(arm)
            self.train(arm, "teacher", "teacher", {2: 0.6, 4: 0.7})
            self.decide(arm, 1)
            self.measure(arm, 1, "teacher", "teacher", 0.2, 0.2, test=0.7, hmmt_feb_25=0.5)
            self.measure(arm, 1, "student", f"student-{arm}", 0.05, 0.05, test=student, hmmt_feb_25=0.5)
            seconds = {"rollouts": 10.0, "teacher": 40.0, "validation": 5.0, "score": 2.0, "distill": 8.0, "evaluate": 1000.0}
            self.registry.iteration(self.campaigns[arm], 1, "completed", seconds)
            self.signal(arm)
            self.registry.campaign_finished(self.campaigns[arm])
        self.begin("online")
        self.train("online", "online", "online", {2: 0.55, 4: 0.6}, seconds_rollout=8.0, seconds_update=2.0, reward_mean=0.5)
        self.decide("online", 1, "online")
        self.measure("online", 1, "student", "online", 0.02, 0.02, test=0.55, hmmt_feb_25=0.45)
        self.registry.iteration(self.campaigns["online"], 1, "completed", {"online": 40.0, "validation": 5.0})
        self.registry.campaign_finished(self.campaigns["online"])
        self.begin("late")
        self.registry.iteration(self.campaigns["late"], 1)
        self.registry.campaign_finished(self.campaigns["late"], "killed")
        return self

    def write(self, study: Study) -> Page:
        return Page(write_study_report(self.registry, self.store, study, self.campaigns, self.out))


QWEN, NBG = "Qwen3-4B-Thinking-2507", "Nanbeige4-3B-2511-Thinking"
ROWS: dict[str, dict[str, str]] = {
    "ce": {"base": "base", "1.teacher": "ce", "1.student": "ce+distill"},
    "ce.kl": {"1.student": f"{NBG}:ce+distill"},
    "online": {},
    "late": {},
}


def study_of(arms: Sequence[str] = (*ROWS, "never"), description: str = "What differs", **changes: Any) -> Study:
    settings = {"ce.kl": ("distill.kl_stop=0.05",)}
    configs = {arm: load_recipe("tiny", ("iterations=1", *settings.get(arm, ()))) for arm in arms}
    values = {
        "name": "table1",
        "description": description,
        "scale": "tiny",
        "paper": "table1",
        "pictures": EVERY,
        "arms": tuple(Arm(name=arm, config=configs[arm], rows=ROWS.get(arm, {})) for arm in arms),
    }
    return Study(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path)
    yield lab
    lab.registry.close()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A study with its report; tests read it and change nothing."""
    lab = Lab(tmp_path_factory.mktemp("study")).run()
    lab.write(study_of())
    yield lab
    lab.registry.close()


@pytest.fixture(scope="module")
def page(finished: Lab) -> Page:
    return Page(finished.out / "report.html")


@pytest.fixture(scope="module")
def listed(finished: Lab) -> list[Entry]:
    return entries(finished.registry, finished.campaigns, study_of())


# ----------------------------------------------------------------------------------------------------------------- the entries


def test_every_policy_stands_once_in_the_order_of_the_arms(listed: list[Entry]):
    assert [entry.name for entry in listed] == ["base", "ce, teacher 1", "ce, student 1", "ce.kl, student 1", "online, student 1"]


def test_a_shared_policy_stands_again_beside_another_row_of_the_paper_and_takes_one_it_lacked(finished: Lab, monkeypatch: Any):
    rows = {
        "ce": {"1.teacher": "ce"},
        "ce.kl": {"base": "base", "1.teacher": "sapo"},
        "online": {"base": f"{NBG}:base"},
        "late": {"base": "base"},
    }
    for arm, places in rows.items():
        monkeypatch.setitem(ROWS, arm, places)
    found = [(entry.name, entry.paper and entry.paper.label) for entry in entries(finished.registry, finished.campaigns, study_of())]
    assert found[0] == ("base", "Base")  # of `ce`, which maps no base; `ce.kl` does
    assert [pair for pair in found if pair[0].endswith("teacher 1")] == [("ce, teacher 1", "CE"), ("ce.kl, teacher 1", "SAPO")]
    assert [name for name, _ in found].count("base") == 2  # Qwen's, Nanbeige's; Qwen's not twice


def test_gains_and_their_intervals_can_be_checked_by_hand(listed: list[Entry]):
    student = listed[2]
    # (65 - 50 + 50 - 40) / 2 points; four half widths of 3 points over two benchmarks
    assert student.gain is not None and student.gain.points == pytest.approx(12.5)
    assert (student.gain.low, student.gain.high) == pytest.approx((12.5 - math.sqrt(4 * 9) / 2, 12.5 + math.sqrt(4 * 9) / 2))
    assert student.per_nat == pytest.approx(250)
    assert listed[0].gain is None and listed[0].per_nat is None


def test_the_wider_side_of_a_lopsided_interval_counts():
    def row(role: str, avg: float, low: float, high: float) -> Row:
        score = Score(avg=avg, k=1, problems=9, ci95=(low, high))
        return Row(1, role, "", EvalReport(policy="p", scores={"t": score}, kl_old=0, kl_base=0, entropy=0, length=1), 1, role)

    assert gain_over(row("student", 0.98, 0.94, 1.0), row("base", 0.02, 0.0, 0.05)) == Gain(*(pytest.approx(x) for x in (96, 91, 101)))


def test_a_gain_of_the_paper_is_over_the_base_of_its_own_group(listed: list[Entry]):
    ce, other = listed[2], listed[3]
    assert ce.paper is not None and other.paper is not None
    assert (ce.paper.group, other.paper.group) == (QWEN, NBG)
    assert ce.paper_gain == pytest.approx(73.3 - 68.5) and other.paper_gain == pytest.approx(77.7 - 72.5)  # Avg
    assert ce.gain_difference == pytest.approx(12.5 - 4.8)
    assert listed[0].paper is not None and listed[0].paper_gain is None


def test_benchmarks_of_the_same_name_are_compared_however_they_are_spelt(listed: list[Entry]):
    assert listed[2].score_difference("hmmt_feb_25") == pytest.approx(50 - 67.1)
    assert listed[2].score_difference("test") is None and listed[4].score_difference("hmmt_feb_25") is None


def test_nothing_is_divided_by_a_kl_that_is_as_good_as_none(lab: Lab):
    lab.begin("a")
    for number, kl in enumerate((0.0, 0.0004, -0.001, math.nan), 1):
        lab.measure("a", number, "student", f"s{number}", kl, kl, test=0.6, hmmt_feb_25=0.5)
    assert [entry.per_nat for entry in entries(lab.registry, lab.campaigns)] == [None] * 5


def test_a_row_without_group_is_the_first_of_its_key_and_a_figures_value_is_a_row():
    assert paper_row(load_paper("table1"), "ce").group == QWEN
    assert paper_row(load_paper("table1"), f"{NBG}:ce").values["Avg"] == 76.7
    assert paper_row(load_paper("fig7"), "old.steps10").values == {"HMMT Feb 25": 65.1}
    with pytest.raises(ValueError, match="no row 'nobody:ce'"):
        paper_row(load_paper("table1"), "nobody:ce")


def test_a_misspelt_row_is_told_before_anything_runs(tmp_path: Path):
    study = tmp_path / "mine.yaml"
    text = (
        "description: d\npaper: table1\nscales: {tiny: {}}\narms:\n- {name: a, rows: {1.student: ce}}\n- {name: b, rows: {1.student: %s}}\n"
    )
    study.write_text(text % "sapo")
    assert [arm.rows for arm in load_study(str(study)).arms] == [{"1.student": "ce"}, {"1.student": "sapo"}]
    study.write_text(text % "spao")
    with pytest.raises(ValueError, match=r"arm b: rows.1.student: .* no row 'spao'"):
        load_study(str(study))


def test_the_markdown_table_holds_the_same_numbers(listed: list[Entry]):
    lines = study_markdown(listed).splitlines()
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1 and len(lines) == 2 + len(listed)
    assert lines[4].startswith("| ce, student 1 | S1 | 65.0 [62.0, 68.0] | 50.0 [47.0, 53.0] | +12.5 [+9.5, +15.5] | 0.050 | 0.050 | 250 |")
    assert lines[4].endswith(f"| CE + Distillation ({QWEN}) | +4.8 |  | +7.7 |")
    assert "paper" not in study_markdown([listed[4]])
    assert [signed(value) for value in (-0.04, -3.0, None, math.nan)] == ["+0.0", "−3.0", "–", "–"]


# -------------------------------------------------------------------------------------------------------------------- the page


def test_the_table_puts_ours_beside_the_papers(page: Page):
    ours = ["S1", "65.0 [62.0, 68.0]", "50.0 [47.0, 53.0]", "+12.5 [+9.5, +15.5]", "0.050", "0.050", "250", "0.250", "8.5"]
    paper = [f"CE + Distillation {QWEN}", "87.9", "85.1", "67.1", "56.3", "69.9", "73.3", "+4.8", ""]
    assert page.row("ce, student 1")[1:] == [*ours, *paper, "+7.7", "−17.1"]
    assert page.row("online, student 1")[10:] == [""] * 11
    assert page.text.count("ce, teacher 1") == 1 and "ce.kl, teacher 1" not in page.text


def test_the_page_says_how_far_each_arm_is_and_links_its_report(page: Page):
    assert "3 of 5 arms are complete" in page.text
    assert "late: killed, 0 of 1 iterations done." in page.text and "never: not begun" in page.text
    links = {attributes["href"] for tag, attributes in page.tags if tag == "a"}
    assert links == {f"../study-{arm}-0123456789/report.html" for arm in ("ce", "ce.kl", "online", "late")}
    assert page.row("ce.kl") == ["ce.kl", "completed", "1 of 1", "1 settingsdistill.kl_stop=0.05"]


def test_the_papers_findings_and_settings_are_there_and_marked_as_its_own(page: Page):
    paper = load_paper("table1")
    assert all(finding in page.text for finding in paper.findings)
    assert "the paper's findings on its own models and benchmarks, not ours" in page.text
    assert page.row("teacher minibatch") == ["teacher minibatch", "32, 64, 256", "Sec. 4.1"]


def test_the_command_is_the_one_that_was_given():
    study = study_of(recipe="my study.yaml", overrides=("seed=3", "distill.S1={steps: 4}"))
    assert study_command(study) == "erpd run 'my study.yaml' --set scale=tiny --set seed=3 --set 'distill.S1={steps: 4}'"
    assert study_command(study_of()) == "erpd run table1 --set scale=tiny"


def test_only_what_differs_sets_an_arm_apart():
    apart = settings_apart(study_of(("ce", "ce.kl")).arms)
    assert apart == {"ce": ("distill.kl_stop=null",), "ce.kl": ("distill.kl_stop=0.05",)}


def test_every_picture_is_whole_in_the_page_and_beside_it(finished: Lab, page: Page):
    assert {path.name for path in finished.out.glob("*.png")} == {f"{name}.png" for name in EVERY}
    assert sum(tag == "img" for tag, _ in page.tags) == len(EVERY)
    for path in finished.out.glob("*.png"):
        height, width, _ = imread(io.BytesIO(path.read_bytes()), format="png").shape
        assert width > 500 and height > 200, path.name


def test_the_page_asks_for_nothing_outside_itself(page: Page):
    policy = [attributes["content"] for tag, attributes in page.tags if attributes.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "action"):
            assert (attributes.get(name) or "data:").startswith(("data:", "../study-"))
    assert not page.names & {"script", "iframe", "object", "base"}


def test_the_same_data_gives_the_same_bytes(finished: Lab, tmp_path: Path):
    again = write_study_report(finished.registry, finished.store, study_of(), finished.campaigns, tmp_path / "elsewhere").parent
    names = sorted(path.name for path in finished.out.iterdir())
    assert names == sorted([*(f"{name}.png" for name in EVERY), "report.html"])
    assert all((finished.out / name).read_bytes() == (again / name).read_bytes() for name in names)


def test_hostile_text_stays_text(lab: Lab):
    arm = HOSTILE + "$x_{"
    lab.campaigns[arm] = "../" + HOSTILE
    lab.registry.campaign_started(lab.campaigns[arm], HOSTILE, HOSTILE, {})
    lab.measure(arm, 0, "base", "base", 0.0, 0.0, **{"te$t_{<b>": 0.5})
    lab.measure(arm, 1, "student", "s", 0.1, 0.1, **{"te$t_{<b>": 0.6})
    lab.registry.iteration(lab.campaigns[arm], 1, "completed", {"rollouts": 3.0})
    lab.signal(arm)
    study = study_of((arm,), description=HOSTILE, name=HOSTILE)
    pages = [lab.write(study), Page(write_efficiency_page(lab.registry, lab.campaigns, lab.out))]
    for page in pages:
        assert not page.names & {"script", "b"}
        assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
        assert page.text.count(HOSTILE) >= 3
    assert [attributes["href"][:6] for tag, attributes in pages[0].tags if tag == "a"] == ["../..%"]  # type: ignore[index]
    assert "<b>" not in study_markdown(entries(lab.registry, lab.campaigns))


def test_a_study_that_has_not_begun_has_a_page_and_loses_old_pictures(lab: Lab):
    lab.out.mkdir(parents=True)
    (lab.out / "gains.png").touch()
    page = lab.write(study_of())
    assert "0 of 5 arms are complete" in page.text and "No policy has been measured yet." in page.text
    assert not list(lab.out.glob("*.png"))


def test_lost_files_do_not_stop_a_report(lab: Lab):
    lab.run()
    for kind in ("training", "signal"):
        for artifact in lab.store.artifacts(kind):
            lab.store.discard(artifact)
    lab.write(study_of())
    names = {path.stem for path in lab.out.glob("*.png")}
    assert {"gains", "score_vs_kl", "stages", "time"} <= names and not {"deviation", "log_ratios"} & names


def test_a_study_without_a_paper_has_no_columns_for_it(finished: Lab, tmp_path: Path):
    page = Page(write_study_report(finished.registry, finished.store, study_of(paper=None), finished.campaigns, tmp_path))
    assert len(page.row("ce, student 1")) == 10 and "The paper" not in page.text


# ------------------------------------------------------------------------------------------------------------- time, efficiency


def test_time_counts_what_led_to_a_policy_and_not_its_measurement(finished: Lab):
    line = timeline(finished.registry, finished.store, "ce", finished.campaigns["ce"])
    assert [(at, policy.role) for at, policy in line.policies] == [(0.0, "base"), (55.0, "teacher"), (65.0, "student")]
    # rollouts of 10 s, then steps 2 and 4 of a run of 40 s
    assert line.kept == [[(30.0, 0.6), (50.0, 0.7)]]
    online = timeline(finished.registry, finished.store, "online", finished.campaigns["online"])
    assert online.kept == [[(20.0, 0.55), (40.0, 0.6)]]  # 8 s of sampling and 2 s of learning a step
    assert online.policies[-1][0] == 45.0


def test_the_efficiency_page_names_the_front(finished: Lab, tmp_path: Path):
    page = Page(write_efficiency_page(finished.registry, finished.campaigns, tmp_path))
    front = [row[0] for row in page.rows if row[-1] == "yes"]
    assert front == ["base", "ce, teacher 1", "ce, student 1", "online, student 1"]  # ce.kl's has the KL of ce's and scores less
    assert page.row("ce, student 1")[1:] == ["S1", "65.0 [62.0, 68.0]", "50.0 [47.0, 53.0]", "+12.5 [+9.5, +15.5]", "0.050", "250", "yes"]
    assert {path.name for path in tmp_path.iterdir()} == {"efficiency.html", "efficiency.png"}
    with pytest.raises(LookupError):
        write_efficiency_page(finished.registry, {"x": "nothing"}, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_bases_of_their_own_are_told_apart(lab: Lab):
    for arm, base in (("a", 0.5), ("b", 0.3)):
        lab.campaigns[arm] = f"c-{arm}"
        lab.registry.campaign_started(f"c-{arm}", arm, "tiny", {})
        lab.measure(arm, 0, "base", f"base-{arm}", 0.0, 0.0, test=base)
        lab.measure(arm, 1, "student", f"student-{arm}", 0.1, 0.1, test=0.6)
    found = entries(lab.registry, lab.campaigns)
    assert [entry.name for entry in found] == ["a, base", "a, student 1", "b, base", "b, student 1"]
    assert [entry.gain.points for entry in found if entry.gain] == pytest.approx([10, 30])  # each over its own


# ----------------------------------------------------------------------------------------------------------------- the pictures


def test_pictures_without_data_are_none():
    drawn = [study_figures.gains([]), study_figures.efficiency([]), study_figures.stages([]), signal_figures.deviation({"a": []})]
    assert [*drawn, signal_figures.log_ratios({"a": {}}), study_figures.score_by_time([])] == [None] * 6


def test_a_dozen_arms_have_a_dozen_colours_and_an_arm_keeps_its_own():
    arms = [f"arm{number}" for number in range(12)]
    assert len({arm_style.arm_color(arm, arms) for arm in arms}) == 12
    score = Score(avg=0.5, k=8, problems=200, ci95=(0.47, 0.53))
    points = [study_figures.Placed(arm, "student", 1, 0.01 + 0.002 * number, {"t": score}) for number, arm in enumerate(arms)]
    figure = study_figures.efficiency(points[3:4], arms)
    assert figure is not None and figure.axes[0].lines[-1].get_color() == arm_style.ARMS[3]
    written = [text.get_text() for text in study_figures.efficiency(points).axes[0].texts]  # type: ignore[union-attr]
    assert len(set(written)) == len(written) and set(written) <= set(arms)


def test_names_in_a_picture_do_not_lie_on_each_other():
    score = Score(avg=0.5, k=8, problems=200, ci95=(0.47, 0.53))
    points = [study_figures.Placed(f"arm{number}", "student", 1, 0.05 + 0.001 * number, {"t": score}) for number in range(12)]
    figure = study_figures.efficiency(points)
    assert figure is not None
    png(figure)
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert boxes and not any(one.overlaps(other) for number, one in enumerate(boxes) for other in boxes[:number])


def test_a_study_report_needs_neither_torch_nor_prefect():
    modules = "flows.study_report, tasks.study_figures, tasks.signal_figures"
    code = f"import {modules}, sys; print(sorted({{'torch', 'prefect', 'ray', 'mlflow'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
