"""The `erpd` command: its output, exit codes, and one helpful line for every fault of the input."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import erpd, no_process_left, sets

from erpd_core.config import CampaignConfig
from flows.recipes.load import load_recipe, recipe_names
from flows.recipes.studies import is_study, load_study
from tasks.models.import_policy import ASSETS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A home shared by the module, with a path short enough for Ray; no test needs an empty one."""
    with tempfile.TemporaryDirectory(prefix="e-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def error_line(done: subprocess.CompletedProcess[str]) -> str:
    """The single error line of a command that was given bad input."""
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    assert done.stdout == ""
    return lines[0]


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    )
    return path


# ---------------------------------------------------------------------------------------- bad input


def test_a_wrong_recipe(home: Path):
    line = error_line(erpd("run", "tinny", "--json", home=home))
    assert "tinny" in line and "tiny" in line.replace("tinny", "")
    assert "tinny" in error_line(erpd("show", "tinny", home=home))


def test_broken_yaml(home: Path, tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: tiny\nteacher:\n  steps: [1\n")
    line = error_line(erpd("run", path, home=home))
    assert "mine.yaml" in line and "line" in line


def test_an_unknown_key_and_a_wrong_value(home: Path, tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: tiny\nteacher: {stepz: 3}\nseed: many\n")
    line = error_line(erpd("run", path, "--json", home=home))
    assert "teacher.stepz" in line and "seed" in line


@pytest.mark.parametrize(
    ("override", "word"),
    [("seed", "key.path=value"), ("colour=1", "colour"), ("teacher.steps=-1", "teacher.steps")],
)
def test_a_bad_override(home: Path, override: str, word: str):
    assert word in error_line(erpd("run", "tiny", "--set", override, home=home))


def test_a_model_directory_that_is_not_there(home: Path, tmp_path: Path):
    line = error_line(
        erpd(
            "run",
            "tiny",
            "--set",
            f"model={{kind: directory, path: {tmp_path / 'nope'}}}",
            "--json",
            home=home,
        )
    )
    assert "nope" in line


def test_a_model_with_pickled_weights_only(home: Path, tmp_path: Path):
    model = shutil.copytree(ASSETS / "tiny-base", tmp_path / "model")
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    line = error_line(
        erpd("run", "tiny", "--set", f"model={{kind: directory, path: {model}}}", home=home)
    )
    assert "safetensors" in line and "model" in line
    assert "safetensors" in error_line(
        erpd("eval", "--model", model, "--benchmark", "tiny", home=home)
    )


def test_a_data_file_that_is_not_there(home: Path, tmp_path: Path):
    line = error_line(
        erpd(
            "run",
            "tiny",
            "--set",
            f"prompts={{kind: file, path: {tmp_path / 'nope.jsonl'}}}",
            home=home,
        )
    )
    assert "nope.jsonl" in line
    line = error_line(
        erpd(
            "run",
            "tiny",
            "--set",
            f"evaluation.benchmarks.more={{kind: file, path: {tmp_path / 'nope.csv'}}}",
            home=home,
        )
    )
    assert "nope.csv" in line


def test_a_data_file_with_a_broken_row_is_refused_before_anything_runs(home: Path, tmp_path: Path):
    path = lines(tmp_path / "p.jsonl", [{"problem": "1+1=", "answer": "2"}, {"problem": "2+2="}])
    line = error_line(
        erpd("run", "tiny", "--set", f"prompts={{kind: file, path: {path}}}", home=home)
    )
    assert "p.jsonl" in line and "row 2" in line and "answer" in line


def test_a_home_too_deep_for_rays_sockets(tmp_path: Path):
    deep = tmp_path / ("deep" * 20)
    line = error_line(erpd("run", "tiny", home=deep, cwd=tmp_path))
    assert "ERPD_HOME" in line and "runtime.ray=off" in line
    assert no_process_left(deep) == []


def test_vllm_that_cannot_be_had_here(home: Path):
    """vLLM's CPU build cannot sample on a GPU. If vLLM is not installed, the message says so."""
    wrong = ("runtime.engine=vllm", "runtime.device=cuda", "runtime.ray=off")
    assert "vllm" in error_line(erpd("run", "tiny", *sets(wrong), home=home)).lower()


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ("{", "line 2"),
        ("[1]", "line 2"),
        ({"gold": "1"}, "prediction"),
        ({"prediction": "1"}, "gold"),
    ],
    ids=["json", "list", "no prediction", "no gold"],
)
def test_grading_malformed_rows(home: Path, tmp_path: Path, row: Any, word: str):
    source = lines(tmp_path / "in.jsonl", [{"gold": "1", "prediction": "1"}, row])
    line = error_line(erpd("grade", source, tmp_path / "out.jsonl", home=home))
    assert word in line and ("2" in line)
    assert not (tmp_path / "out.jsonl").exists(), "no partial result"


def test_grading_a_file_that_is_not_there(home: Path, tmp_path: Path):
    assert "nope.jsonl" in error_line(
        erpd("grade", tmp_path / "nope.jsonl", tmp_path / "out.jsonl", home=home)
    )


def test_a_report_of_no_campaign(home: Path):
    assert "nosuch" in error_line(erpd("report", "nosuch", home=home))


def test_evaluating_what_is_not_there(home: Path, tmp_path: Path):
    assert "/nope" in error_line(
        erpd("eval", "--model", "/nope", "--benchmark", "tiny", "--json", home=home)
    )
    assert "nope.jsonl" in error_line(
        erpd("eval", "--model", "tiny", "--benchmark", tmp_path / "nope.jsonl", home=home)
    )
    assert "nope" in error_line(
        erpd("eval", "--model", "tiny", "--benchmark", "nope", "--json", home=home)
    )


def test_wrong_usage_is_exit_2_without_a_traceback(home: Path):
    for arguments in (
        ["run"],
        ["nosuch"],
        ["run", "tiny", "--nosuch"],
        ["eval", "--model", "tiny"],
    ):
        done = erpd(*arguments, home=home)
        assert done.returncode == 2 and "Traceback" not in done.stderr and done.stderr.strip()


# ------------------------------------------------------------------------------------------- output


def test_recipes_lists_each_with_its_description(home: Path):
    done = erpd("recipes", home=home)
    assert done.returncode == 0
    listed = done.stdout.splitlines()
    assert [line.split()[0] for line in listed] == recipe_names()
    for line in listed:
        name = line.split()[0]
        assert (load_study(name) if is_study(name) else load_recipe(name)).description in line


def test_show_prints_a_recipe_that_reads_back(home: Path, tmp_path: Path):
    done = erpd("show", "tiny", "--set", "seed=5", "--set", "teacher.optimizer.lr=1e-5", home=home)
    assert done.returncode == 0, done.stderr
    config = load_recipe("tiny", ["seed=5", "teacher.optimizer.lr=1e-5"])
    assert CampaignConfig.model_validate(yaml.safe_load(done.stdout)) == config
    path = tmp_path / "shown.yaml"
    path.write_text(done.stdout)
    assert load_recipe(str(path)) == config
    again = erpd("show", path, home=home).stdout
    assert yaml.safe_load(again) == yaml.safe_load(done.stdout)


def test_show_says_what_a_recipe_will_cost(home: Path):
    for arguments, device in (
        (["tiny"], "this machine"),
        (["paper"], "8 H100"),
        (["paper", "--machine", "A100"], "8 A100"),
    ):
        done = erpd("show", *arguments, home=home)
        assert done.returncode == 0, done.stderr
        costs = [line for line in done.stdout.splitlines() if line.startswith("#")]
        assert device in costs[0] and any(line.startswith("# total") for line in costs)
    refused = erpd("show", "paper", "--machine", "H2O", home=home)
    assert refused.returncode == 2 and "H100" in error_line(refused)


def test_help_names_every_command(home: Path):
    done = erpd("--help", home=home)
    assert done.returncode == 0
    assert all(
        f" {name} " in done.stdout
        for name in (
            "run",
            "recipes",
            "show",
            "eval",
            "grade",
            "report",
            "up",
            "down",
            "status",
            "doctor",
        )
    )


def test_doctor_finds_this_machine_fit(home: Path):
    done = erpd("doctor", home=home)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "torch" in done.stdout and "MISSING" not in done.stdout


def test_commands_that_only_read_write_nothing(tmp_path: Path):
    home, cwd = tmp_path / "home", tmp_path / "cwd"
    cwd.mkdir()
    for arguments in (["recipes"], ["show", "tiny"], ["--help"]):
        assert erpd(*arguments, home=home, cwd=cwd).returncode == 0
    assert not home.exists() and list(cwd.iterdir()) == []


def test_grade_keeps_rows_and_order_and_adds_verdicts(home: Path, tmp_path: Path):
    rows = [
        {"gold": "1/2", "prediction": r"so it is \boxed{0.5}", "id": 7},
        {"gold": "102", "prediction": "12,9#92"},
        {"gold": "3", "prediction": "I do not know."},
        {"gold": r"\frac{3}{4}", "prediction": "0.75", "note": {"é": [1]}},
    ]
    source, target = lines(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    done = erpd("grade", source, target, home=home)
    assert done.returncode == 0, done.stderr
    graded = [json.loads(line) for line in target.read_text().splitlines()]
    assert [
        {key: value for key, value in row.items() if key != "verdict"} for row in graded
    ] == rows
    assert [row["verdict"] for row in graded] == ["correct", "wrong", "unparsable", "correct"]


def test_the_report_of_a_campaign_by_id_and_name(undisturbed: Any):
    for name in (undisturbed.result["campaign"], "tiny"):
        done = erpd("report", name, home=undisturbed.home)
        assert done.returncode == 0, done.stderr
        page = Path(done.stdout.strip().splitlines()[-1])
        assert page.is_file() and page == Path(undisturbed.result["report"])
        assert "student" in done.stdout
