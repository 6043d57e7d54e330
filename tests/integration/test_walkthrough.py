"""The walkthrough names the files through which a token goes from the command to the loss."""

import re
from pathlib import Path

import pytest
from doc_names import ROOT, python_name_exists
from helpers import campaign_arguments, migrated, python

PAGE = ROOT / "docs" / "walkthrough.md"
ROW = re.compile(r"^\| \[([\w./]+)\]\(\.\./\1\) \| `([\w.]+)` \|", re.MULTILINE)
MOST = 12
"""Files from the command to the loss, both included."""

RUN = """
import os, sys, threading
root, log = sys.argv[1], os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT)
from erpd_core.losses import LOSSES, sapo as module

def noted(config, x, original=LOSSES["sapo"]):
    names = {threading.main_thread().ident, threading.get_ident()}
    files = [module.__file__]
    for thread, frame in sys._current_frames().items():
        while thread in names and frame is not None:
            files.append(frame.f_code.co_filename)
            frame = frame.f_back
    os.write(log, "\\n".join(files).encode())
    os._exit(0)

LOSSES["sapo"] = noted
sys.argv = ["erpd", *sys.argv[3:]]
from deployments.cli import main
main()
"""


def test_the_functions_of_the_page_exist():
    rows = ROW.findall(PAGE.read_text())
    assert rows
    for file, name in rows:
        assert python_name_exists(name), name
        assert name.startswith(file.removesuffix(".py").replace("/", ".")), name


@pytest.mark.slow
def test_the_page_lists_the_files_on_the_stack(tmp_path: Path):
    home, log = migrated(tmp_path / "home"), tmp_path / "files"
    sapo = campaign_arguments("teacher.loss.kind=sapo", "iterations=1")
    done = python(RUN, ROOT, log, *sapo, home=home)
    assert log.exists(), done.stderr
    paths = {Path(line) for line in log.read_text().splitlines()}
    stack = {str(path.relative_to(ROOT)) for path in paths if path.is_relative_to(ROOT)}
    stack = {path for path in stack if not path.startswith(".venv")}
    listed = [file for file, _ in ROW.findall(PAGE.read_text())]
    assert stack == set(listed)
    assert len(listed) == len(set(listed)) <= MOST
