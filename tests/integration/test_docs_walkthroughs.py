"""Runs the documentation with shrunk campaigns in one home.

Every walk-through is one script; every other command runs separately.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from chat_server import serving
from doc_commands import BLOCK, PAGES, ROOT, WALKTHROUGHS, Command, commands
from helpers import environment, erpd

from tasks.models.import_policy import ASSETS
from tasks.registry import Registry
from tasks.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.long]

UP, CAMPAIGNS, DOWN = (
    "erpd up",
    ("erpd run tiny", "erpd run tiny --set teacher.loss.kind=sapo --set name=sapo"),
    "erpd down",
)
"""Commands that the fixture runs before and after all others, which use these two campaigns."""
_RUN = [
    command
    for page in PAGES
    if page.stem not in WALKTHROUGHS
    for command in commands(page)
    if command.not_run is None
]
ALONE = {
    command.line: Path(command.page).name
    for command in _RUN
    if command.line not in (UP, *CAMPAIGNS, DOWN)
}
"""Commands outside of walk-throughs -> a page that has them."""
SAME_ANYWHERE = re.compile(r"erpd (recipes|benchmarks|doctor|status|show [\w-]+)$")
"""Commands that use no files of a page. If several pages have one, it runs only once."""

FILES = {
    "answers.jsonl": [
        {"problem": "1/2?", "gold": "1/2", "prediction": "so it is \\boxed{0.5}"},
        {"problem": None, "gold": "3", "prediction": "4"},
    ],
    "in.jsonl": [{"problem": "1+1?", "gold": "two", "prediction": "The answer is otw."}],
    "programs.jsonl": [
        {"code": "print(int(input()) + 1)", "unit_tests": {"inputs": ["1\n"], "outputs": ["2\n"]}}
    ],
    "problems.jsonl": [{"problem": f"{a}+11+12=", "answer": str(a + 23)} for a in (10, 20, 30)],
}
"""Input files of commands of several pages."""

SAYS = {
    r"erpd run (?!.*--json)|erpd report tiny$": "student 1",
    r"erpd doctor": "Everything required is installed",
    r"erpd campaigns": r"(?s)(?=.* sapo-\w+ +tiny +completed )(?=.* tiny-\w+ +tiny )",
    r"erpd lineage tiny:1\.student": r"(?s)^policy-\w+  student, .*numerator-1: "
    r"column.*policy-\w+  "
    r"base, "
    r".*\(above\)",
    r"erpd lineage .*--descendants": r"(?s)^rollouts-(?=.*training-\w+  ce,)(?=.*training-\w+  "
    r"sapo,)",
    r"erpd compare tiny sapo": r"(?s)teacher\.loss\.kind +ce +sapo.*A's student 1 minus B's "
    r"student 1 "
    r"is .* "
    r"paired "
    r"over 16 problems",
    r"erpd gc --dry-run": "Nothing was changed",
    r"erpd gc --forget": r"(?s)sapo-\w+: would be forgotten.*Nothing was changed",
}
"""Commands outside of walk-throughs -> their expected output."""


@dataclass(frozen=True)
class Shell:
    """Runs commands with a home whose servers are up and an `erpd` that shrinks campaigns."""

    home: Path
    bin: Path
    judge: str

    def run(self, script: str, cwd: Path, root: Path = ROOT) -> str:
        """Run a script, which must succeed; returns its output. `root` is the checkout to run."""
        path = os.pathsep.join(
            [str(self.bin), str(Path(sys.executable).parent), os.environ["PATH"]]
        )
        env = environment(self.home, PATH=path, COLUMNS="200") | {"PYTHONPATH": str(root)}
        command = ["bash", "-e", "-u", "-o", "pipefail", "-c", script]
        done = subprocess.run(
            command,
            cwd=cwd,
            env=env,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=500,
        )
        assert done.returncode == 0, f"{script}\n\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        assert "Traceback" not in done.stderr
        return done.stdout

    def run_page(self, page: str, cwd: Path) -> str:
        """Run a walk-through in a separate folder; the one of a new loss in a copy of the code."""
        if page != "own_loss":
            return self.run(script(page), cwd)
        ignored = (
            ".git",
            ".venv",
            ".erpd",
            "build",
            "__pycache__",
            ".*_cache",
            ".hypothesis",
            "*.egg-info",
        )
        copy = shutil.copytree(
            ROOT, cwd / "copy", ignore=shutil.ignore_patterns(*ignored), symlinks=True
        )
        return self.run(script(page), copy, root=copy)

    def run_line(self, line: str, cwd: Path) -> str:
        """Run a command in a folder with its input files, its placeholders replaced."""
        for name, rows in FILES.items():
            (cwd / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        for pattern, value in {
            r"http://127\.0\.0\.1:8000/v1|\bURL\b": self.judge,
            r"\bNAME\b": "letters",
            r"--model A --against B": f"--model tiny --against {ASSETS / 'tiny-base'}",
            r"\btiny smollm2\b": "tiny sapo",
        }.items():
            line = re.sub(pattern, value, line)
        return self.run(line, cwd)


def script(page: str) -> str:
    """The shell blocks of a page, without `git pull` and commands that are not run or run alone."""
    text = "\n".join(BLOCK.findall((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")))
    return "\n".join(
        line
        for line in text.splitlines()
        if line != "git pull" and not Command(page, line).not_run and not again(line)
    )


def again(line: str) -> bool:
    command = re.sub(r"\s+# .*$", "", line)
    return command in ALONE and bool(SAME_ANYWHERE.match(command))


@pytest.fixture(scope="module")
def shell() -> Iterator[Shell]:
    """A shell with the platform up and two finished campaigns, `tiny` and `sapo`."""
    with (
        tempfile.TemporaryDirectory(prefix="e-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        serving("letters") as judge,
    ):
        shell = Shell(Path(folder, "home"), Path(folder, "bin"), judge.endpoint)
        shell.home.mkdir()
        shell.bin.mkdir()
        program = shell.bin / "erpd"
        program.write_text(
            f'#!/bin/sh\nexec "{sys.executable}" "{ROOT / "tests" / "doc_commands.py"}" "$@"\n'
        )
        program.chmod(0o755)
        try:
            assert "ready" in shell.run(UP, shell.home)
            with ThreadPoolExecutor(2) as pool:
                for output in pool.map(lambda line: shell.run(line, shell.home), CAMPAIGNS):
                    assert "student 1" in output
            yield shell
            assert "stopped 3 processes" in shell.run(DOWN, shell.home)
        finally:
            erpd("down", home=shell.home)


Begun = Mapping[str, tuple[Path, "Future[str]"]]


@pytest.fixture(scope="module")
def begun(
    shell: Shell, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Begun]:
    """Every selected page and command -> its folder and future output.

    They run two at a time, because most of their time is Python's start.
    """
    here = [item for item in request.session.items if item.path == request.path]
    work = [item.callspec.params["work"] for item in here]  # type: ignore[attr-defined]
    with ThreadPoolExecutor(2) as pool:
        folders = {item: tmp_path_factory.mktemp("docs") for item in work}
        run = {item: shell.run_page if item in WALKTHROUGHS else shell.run_line for item in work}
        yield {
            item: (folder, pool.submit(run[item], item, folder)) for item, folder in folders.items()
        }


@pytest.mark.parametrize("work", ["own_loss"])
def test_own_loss(begun: Begun, work: str):
    """With the new loss in a copy of the code, its tests pass and a teacher trains with the
    loss.
    """
    output = begun[work][1].result()
    assert re.search(r"^\d\d+ passed", output, re.MULTILINE)
    assert "unlikelihood" in output and "student 1" in output


@pytest.mark.parametrize("work", ["recipes"])
def test_recipes(begun: Begun, shell: Shell, work: str):
    """The arms of the page's study share the artifacts that the page names."""
    begun[work][1].result()
    (study,) = (shell.home / "reports").glob("clips-tiny-*")
    assert [arm["name"] for arm in json.loads((study / "study.json").read_text())["arms"]] == [
        "narrow",
        "wide",
    ]
    registry = Registry(f"sqlite:///{shell.home / 'registry.db'}")
    arms = [registry.artifacts(registry.campaign(f"clips-{arm}").id) for arm in ("narrow", "wide")]
    registry.close()
    narrow, wide = ({entry.role: entry.artifact.id for entry in arm} for arm in arms)
    same = {role for role in narrow if narrow[role] == wide[role]}
    assert {
        "rollouts",
        "teacher training",
        "base evaluation",
    } <= same and "student training" in narrow.keys() - same


@pytest.mark.parametrize("work", ["own_data"])
def test_own_data(begun: Begun, shell: Shell, work: str):
    output = begun[work][1].result()
    assert "student 1" in output
    assert len(list((shell.home / "reports").glob("sums-*/report.html"))) == 1


@pytest.mark.parametrize("work", ["own_benchmark"])
def test_own_benchmark(begun: Begun, work: str):
    folder, output = begun[work][0], begun[work][1].result()
    verdicts = [
        json.loads(line)["verdict"] for line in (folder / "graded.jsonl").read_text().splitlines()
    ]
    assert verdicts == ["correct", "correct", "wrong"]
    assert json.loads((folder / "base.json").read_text())["scores"]["mine"]["problems"] == 6
    assert len((folder / "problems.jsonl").read_text().splitlines()) == 6
    assert re.search(
        r"mine: \S+ minus tiny is [^p]* points .*paired over 6 problems", " ".join(output.split())
    )
    assert re.search(r"signal +test +mine", output), "a column of the campaign's table"


@pytest.mark.parametrize("work", ["operations"])
def test_operations(begun: Begun, work: str):
    """A restored backup contains the campaign, and its artifacts are intact."""
    folder, output = begun[work][0], begun[work][1].result()
    assert "student 1" in output and "store/policy" in output
    assert re.search(
        r"(?s)scheduled iteration-tiny.*iteration-tiny .*0 2 \* \* \*.*removed iteration-tiny",
        output,
    )
    store = Store(folder / "restored" / "store")
    artifacts = [
        artifact
        for kind in ("policy", "rollouts", "column", "evaluation")
        for artifact in store.artifacts(kind)
    ]
    assert len(artifacts) > 8 and all(store.has(artifact) for artifact in artifacts)


@pytest.mark.parametrize("work", ALONE, ids=lambda line: f"{ALONE[line]}: {line[:70]}")
def test_a_command_does_what_the_page_says_it_does(begun: Begun, work: str):
    folder, output = begun[work][0], begun[work][1].result()
    if ".jsonl graded.jsonl" in work:
        verdicts = [
            json.loads(line)["verdict"]
            for line in (folder / "graded.jsonl").read_text().splitlines()
        ]
        assert verdicts == (["correct"] if "grade-code" in work else ["correct", "wrong"])
    for command, answer in SAYS.items():
        if re.match(command, work):
            assert re.search(answer, output), output
