"""What a foreground run says when it ends, and its exit code."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest
import typer

from deployments.commands.exit_codes import failing
from deployments.output.console import BadInput
from erpd_core.faults import Fault
from tasks.host.home import prepare

AGAIN = "rerun the same command to resume"


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ERPD_HOME", str(tmp_path / "home"))
    prepare()
    return tmp_path / "home"


def ended_by(error: BaseException) -> None:
    with pytest.raises(typer.Exit) as raised, failing():
        raise error
    assert raised.value.exit_code == 1


def test_a_stop_is_one_line(capsys: pytest.CaptureFixture[str]):
    ended_by(KeyboardInterrupt())
    assert capsys.readouterr().err == f"erpd: interrupted; {AGAIN}\n"


def test_sigterm_is_a_stop_and_the_handler_of_before_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(typer.Exit), failing():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_numerical_fault_is_one_line_with_its_remedy(capsys: pytest.CaptureFixture[str]):
    ended_by(Fault("the loss is NaN", "lower the learning rate", "teacher training"))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("erpd: the run ends: ")
    assert "NaN" in line and "lower the learning rate" in line and line.endswith(AGAIN)


def test_a_full_disk_is_one_line(own_home: Path, capsys: pytest.CaptureFixture[str]):
    ended_by(OSError(errno.ENOSPC, "No space left on device", str(own_home / "store")))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("erpd: ") and line.endswith(f", then {AGAIN}")


def test_any_other_failure_is_two_lines_and_a_traceback_in_a_file(
    own_home: Path, capsys: pytest.CaptureFixture[str]
):
    ended_by(RuntimeError("two\nlines"))
    what, where = capsys.readouterr().err.splitlines()
    log = own_home / "logs" / "failure.log"
    assert what == "erpd: the run failed: RuntimeError: two lines"
    assert where == f"erpd: full traceback in {log}; {AGAIN}"
    assert "Traceback" in log.read_text() and "RuntimeError: two" in log.read_text()


@pytest.mark.parametrize("error", [BadInput("no such recipe"), SystemExit(3)])
def test_what_others_report_is_passed_on(error: BaseException):
    with pytest.raises(type(error)), failing():
        raise error
