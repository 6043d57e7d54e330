"""Runs the sides of a comparison in separate, warm processes; a request is one round of work."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

MARK = "side: "
"""Prefix of the lines of this protocol: libraries print to stdout too."""


def serve(work: Callable[[int], dict[str, Any]]) -> None:
    """Serve rounds in a side's process: report ready, then do one round per line on stdin."""
    print(MARK + "{}", flush=True)
    for number, _ in enumerate(sys.stdin):
        print(MARK + json.dumps(work(number)), flush=True)


class Side:
    """Context manager that runs `python -m MODULE ARGUMENTS`, which serves; a call is a round."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.rounds: list[dict[str, Any]] = []
        """Result of each round."""

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *details: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def ready(self) -> Side:
        """Wait until the side is ready. Raises RuntimeError if its process ends."""
        self._read()
        return self

    def __call__(self) -> float:
        """Run one round. Returns its rate."""
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self.rounds.append(self._read())
        return float(self.rounds[-1]["rate"])

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith(MARK):
                return dict(json.loads(line.removeprefix(MARK)))
        command = " ".join(map(str, self._process.args))  # type: ignore[arg-type]
        raise RuntimeError(
            f"{command} ended with code {self._process.wait()}; run it by hand to see why"
        )
