"""Requests for a campaign, by the command or by a form of the platform.

Repeating a request resumes the same campaign.
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
from services import Stack

CHANGES = (*SHRUNK, "iterations=1", "runtime.cpus=1", "runtime.checkpoint_every=3")
"""Overrides of the shrunk campaign, with its stages as Ray tasks.

A trial may also change how it is spread over a cluster, which does not change the campaign.
"""


class CampaignRequest:
    """A campaign called `name`, started on a stack."""

    def __init__(self, stack: Stack, name: str, *changes: str) -> None:
        self.stack = stack
        self.changes = [*CHANGES, *changes, f"name={name}"]
        self.begin()

    @property
    def process(self) -> psutil.Popen | None:
        """The process that runs the campaign, if a trial started one."""
        return None

    @abstractmethod
    def begin(self) -> None:
        """Start the campaign, or resume it."""

    @abstractmethod
    def ended(self) -> bool: ...

    @abstractmethod
    def succeeded(self) -> bool: ...

    @abstractmethod
    def message(self) -> str:
        """How the campaign ended, for a reader."""

    @abstractmethod
    def result(self) -> dict[str, Any]:
        """The JSON result of `erpd run --json`."""

    def stop(self) -> None:
        """Stop whatever is still running."""


class Command(CampaignRequest):
    """`erpd run`."""

    def begin(self) -> None:
        folder = self.stack.folder
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
                env=self.stack.variables(),
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

    def message(self) -> str:
        return (
            f"exit code {self._process.returncode}: "
            f"{(self.stack.folder / 'stderr').read_text(errors='replace')[-1500:]}"
        )

    def result(self) -> dict[str, Any]:
        result: dict[str, Any] = json.loads((self.stack.folder / "stdout").read_text())
        return result

    def stop(self) -> None:
        if not self.ended():
            self._process.kill()
            self._process.wait()


class FlowRun(CampaignRequest):
    """A flow run of the deployed campaign, as its form in Prefect's UI creates it."""

    def __init__(self, stack: Stack, name: str, *changes: str) -> None:
        stack.services["deployments"].start()
        stack.services["deployments"].wait()
        self.name = name
        super().__init__(stack, name, *changes)

    def begin(self) -> None:
        deployment = self.stack.prefect("/deployments/name/campaign/campaign")["id"]
        what = {"kind": "recipe", "recipe": "tiny", "changes": self.changes}
        self.id: str = self.stack.prefect(
            f"/deployments/{deployment}/create_flow_run", {"parameters": {"what": what}}
        )["id"]

    def _state(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = self.stack.prefect(f"/flow_runs/{self.id}")["state"]
        except httpx.HTTPError as error:
            return {"type": "unknown", "message": str(error)}
        return state

    def ended(self) -> bool:
        return self._state()["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")

    def succeeded(self) -> bool:
        return self._state()["type"] == "COMPLETED"

    def message(self) -> str:
        return f"{self._state()}"

    def result(self) -> dict[str, Any]:
        """Run the command to get the result: every stage is in the store by now."""
        command = Command(self.stack, self.name)
        command.process.wait(300)  # type: ignore[union-attr]
        assert command.succeeded(), command.message()
        return command.result()

    def stop(self) -> None:
        self.stack.services["deployments"].stop()
