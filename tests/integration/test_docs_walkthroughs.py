"""The documentation, run: every walk-through as the one script it is, every other command by
itself; all in one home, campaigns small.
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
"""What the fixture runs, around all others; they find these two campaigns."""
_FOUND = [
    one
    for page in PAGES
    if page.stem not in WALKTHROUGHS
    for one in commands(page)
    if one.not_run is None
]
ALONE = {one.line: Path(one.page).name for one in _FOUND if one.line not in (UP, *CAMPAIGNS, DOWN)}
"""Commands outside of walk-throughs -> a page that has them."""
SAME_ANYWHERE = re.compile(r"erpd (recipes|benchmarks|doctor|status|show [\w-]+)$")
"""Commands that read and write no files of a page: where they are in several, one of them is
run.
"""

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
"""What commands of several pages read."""

SAYS = {
    r"erpd run (?!.*--json)|erpd report tiny$": "student 1",
    r"erpd doctor": "Everything that is needed is there",
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
"""Commands outside of walk-throughs -> what they print."""


@dataclass(frozen=True)
class Shell:
    """Where commands run: a home whose servers are up, and an `erpd` that makes campaigns small."""

    home: Path
    bin: Path
    judge: str

    def run(self, script: str, cwd: Path, root: Path = ROOT) -> str:
        """What the script prints; it has to succeed. `root` is the checkout whose code runs."""
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
        """A walk-through, in a folder of its own; that of a new loss in a copy of the code."""
        if page != "own_loss":
            return self.run(script(page), cwd)
        left = (
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
            ROOT, cwd / "copy", ignore=shutil.ignore_patterns(*left), symlinks=True
        )
        return self.run(script(page), copy, root=copy)

    def run_line(self, line: str, cwd: Path) -> str:
        """A command, beside the files it may read, with something in the place of its
        placeholders.
        """
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
    """The shell blocks of a page, without what is not run, or is run alone; nor is a newer
    version fetched.
    """
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
    """With the platform up and two finished campaigns, `tiny` and `sapo`."""
    with (
        tempfile.TemporaryDirectory(prefix="e-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        serving("letters") as judge,
    ):
        found = Shell(Path(folder, "home"), Path(folder, "bin"), judge.endpoint)
        found.home.mkdir()
        found.bin.mkdir()
        program = found.bin / "erpd"
        program.write_text(
            f'#!/bin/sh\nexec "{sys.executable}" "{ROOT / "tests" / "doc_commands.py"}" "$@"\n'
        )
        program.chmod(0o755)
        try:
            assert "ready" in found.run(UP, found.home)
            with ThreadPoolExecutor(2) as pool:
                for said in pool.map(lambda line: found.run(line, found.home), CAMPAIGNS):
                    assert "student 1" in said
            yield found
            assert "stopped 3 processes" in found.run(DOWN, found.home)
        finally:
            erpd("down", home=found.home)


Begun = Mapping[str, tuple[Path, "Future[str]"]]


@pytest.fixture(scope="module")
def begun(
    shell: Shell, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Begun]:
    """Every page and command that is tested now -> its folder and what it prints. Two at a time:
    most of each is Python starting.
    """
    here = [item for item in request.session.items if item.path == request.path]
    work = [item.callspec.params["work"] for item in here]  # type: ignore[attr-defined]
    with ThreadPoolExecutor(2) as pool:
        folders = {one: tmp_path_factory.mktemp("docs") for one in work}
        run = {one: shell.run_page if one in WALKTHROUGHS else shell.run_line for one in work}
        yield {one: (folder, pool.submit(run[one], one, folder)) for one, folder in folders.items()}


@pytest.mark.parametrize("work", ["own_loss"])
def test_own_loss(begun: Begun, work: str):
    """The tests of a copy of the code pass with the loss in it, and a teacher is trained by it."""
    said = begun[work][1].result()
    assert re.search(r"^\d\d+ passed", said, re.MULTILINE)
    assert "unlikelihood" in said and "student 1" in said


@pytest.mark.parametrize("work", ["recipes"])
def test_recipes(begun: Begun, shell: Shell, work: str):
    """The arms of the page's own study share what it says they do."""
    begun[work][1].result()
    (study,) = (shell.home / "reports").glob("clips-tiny-*")
    assert [arm["name"] for arm in json.loads((study / "study.json").read_text())["arms"]] == [
        "narrow",
        "wide",
    ]
    registry = Registry(f"sqlite:///{shell.home / 'registry.db'}")
    arms = [registry.artifacts(registry.campaign(f"clips-{arm}").id) for arm in ("narrow", "wide")]
    registry.close()
    narrow, wide = ({one.role: one.artifact.id for one in arm} for arm in arms)
    same = {role for role in narrow if narrow[role] == wide[role]}
    assert {
        "rollouts",
        "teacher training",
        "base evaluation",
    } <= same and "student training" in narrow.keys() - same


@pytest.mark.parametrize("work", ["own_data"])
def test_own_data(begun: Begun, shell: Shell, work: str):
    said = begun[work][1].result()
    assert "student 1" in said
    assert len(list((shell.home / "reports").glob("sums-*/report.html"))) == 1


@pytest.mark.parametrize("work", ["own_benchmark"])
def test_own_benchmark(begun: Begun, work: str):
    folder, said = begun[work][0], begun[work][1].result()
    verdicts = [
        json.loads(line)["verdict"] for line in (folder / "graded.jsonl").read_text().splitlines()
    ]
    assert verdicts == ["correct", "correct", "wrong"]
    assert json.loads((folder / "base.json").read_text())["scores"]["mine"]["problems"] == 6
    assert len((folder / "problems.jsonl").read_text().splitlines()) == 6
    assert re.search(
        r"mine: \S+ minus tiny is [^p]* points .*paired over 6 problems", " ".join(said.split())
    )
    assert re.search(r"signal +test +mine", said), "a column of the campaign's table"


@pytest.mark.parametrize("work", ["operations"])
def test_operations(begun: Begun, work: str):
    """A restored copy knows the campaign, and what is in it is whole."""
    folder, said = begun[work][0], begun[work][1].result()
    assert "student 1" in said and "store/policy" in said
    assert re.search(
        r"(?s)scheduled iteration-tiny.*iteration-tiny .*0 2 \* \* \*.*removed iteration-tiny", said
    )
    store = Store(folder / "restored" / "store")
    found = [
        one
        for kind in ("policy", "rollouts", "column", "evaluation")
        for one in store.artifacts(kind)
    ]
    assert len(found) > 8 and all(store.has(one) for one in found)


@pytest.mark.parametrize("work", ALONE, ids=lambda line: f"{ALONE[line]}: {line[:70]}")
def test_a_command_does_what_the_page_says_it_does(begun: Begun, work: str):
    folder, said = begun[work][0], begun[work][1].result()
    if ".jsonl graded.jsonl" in work:
        verdicts = [
            json.loads(line)["verdict"]
            for line in (folder / "graded.jsonl").read_text().splitlines()
        ]
        assert verdicts == (["correct"] if "grade-code" in work else ["correct", "wrong"])
    for command, answer in SAYS.items():
        if re.match(command, work):
            assert re.search(answer, said), said
