"""A campaign that is asked for: by the command, or by a form of the platform. Asked again, it is
the same campaign.
"""

from __future__ import annotations

import json
import subprocess
import sys
from abc import abstractmethod
from typing import Any

import httpx
import psutil
from helpers import SHRUNK, sets
from services import House

CHANGES = (*SHRUNK, "iterations=1", "runtime.cpus=1", "runtime.checkpoint_every=3")
"""The shrunk campaign, its stages as Ray tasks. How it is spread over a cluster is no part of
what is asked: a trial may change that.
"""


class Asked:
    """A campaign called `name` in a house."""

    def __init__(self, house: House, name: str, *changes: str) -> None:
        self.house = house
        self.changes = [*CHANGES, *changes, f"name={name}"]
        self.begin()

    @property
    def process(self) -> psutil.Popen | None:
        """The process that asked, where there is one of ours."""
        return None

    @abstractmethod
    def begin(self) -> None:
        """Ask for it (again)."""

    @abstractmethod
    def ended(self) -> bool: ...

    @abstractmethod
    def succeeded(self) -> bool: ...

    @abstractmethod
    def said(self) -> str:
        """What came of it, for a person."""

    @abstractmethod
    def result(self) -> dict[str, Any]:
        """The contract's JSON object."""

    def stop(self) -> None:
        """End what is still under way."""


class Command(Asked):
    """`erpd run`."""

    def begin(self) -> None:
        folder = self.house.folder
        command = [
            sys.executable,
            "-m",
            "deployments.cli",
            "run",
            "tiny",
            "--json",
            *sets(self.changes),
        ]
        with (folder / "stdout").open("wb") as out, (folder / "stderr").open("ab") as err:
            self._process = psutil.Popen(
                command,
                cwd=folder / "cwd",
                env=self.house.variables(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    @property
    def process(self) -> psutil.Popen | None:
        return self._process

    def ended(self) -> bool:
        return self._process.poll() is not None

    def succeeded(self) -> bool:
        return self._process.returncode == 0

    def said(self) -> str:
        return (
            f"exit code {self._process.returncode}: "
            f"{(self.house.folder / 'stderr').read_text(errors='replace')[-1500:]}"
        )

    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.house.folder / "stdout").read_text())
        return found

    def stop(self) -> None:
        if not self.ended():
            self._process.kill()
            self._process.wait()


class FlowRun(Asked):
    """A run of the deployed campaign, as its form in Prefect's UI makes one."""

    def __init__(self, house: House, name: str, *changes: str) -> None:
        house.services["deployments"].start()
        house.services["deployments"].wait()
        self.name = name
        super().__init__(house, name, *changes)

    def begin(self) -> None:
        deployment = self.house.prefect("/deployments/name/campaign/campaign")["id"]
        what = {"kind": "recipe", "recipe": "tiny", "changes": self.changes}
        self.id: str = self.house.prefect(
            f"/deployments/{deployment}/create_flow_run", {"parameters": {"what": what}}
        )["id"]

    def _state(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = self.house.prefect(f"/flow_runs/{self.id}")["state"]
        except httpx.HTTPError as error:
            return {"type": "unknown", "message": str(error)}
        return found

    def ended(self) -> bool:
        return self._state()["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")

    def succeeded(self) -> bool:
        return self._state()["type"] == "COMPLETED"

    def said(self) -> str:
        return f"{self._state()}"

    def result(self) -> dict[str, Any]:
        """The command says it: every stage is in the store by now."""
        told = Command(self.house, self.name)
        told.process.wait(300)  # type: ignore[union-attr]
        assert told.succeeded(), told.said()
        return told.result()

    def stop(self) -> None:
        self.house.services["deployments"].stop()
