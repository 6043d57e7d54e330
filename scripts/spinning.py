"""Measures what spinning threads cost, with OpenMP's default and with passive waits.

The work is small training steps, in one process and in two at once. `python -m scripts.spinning`
prints one line per case, in seconds of each process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

STEPS = 1500


def work() -> None:
    """Run small training steps on two threads and print how many seconds they took."""
    import torch

    torch.set_num_threads(2)
    torch.manual_seed(0)
    model = torch.nn.Sequential(*[torch.nn.Linear(128, 128) for _ in range(8)])
    x_BD = torch.randn(512, 128)
    for step in range(-50, STEPS):
        if step == 0:
            started = time.perf_counter()
        model(x_BD).tanh().sum().backward()
    print(f"{time.perf_counter() - started:.1f}")


def at_once(processes: int, policy: str | None) -> list[str]:
    """Run `work` in several processes at once. Returns the output of each."""
    environment = {**os.environ, **({"OMP_WAIT_POLICY": policy} if policy else {})}
    command = [sys.executable, "-c", "from scripts.spinning import work; work()"]
    started = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    return [process.communicate()[0].strip() for process in started]


if __name__ == "__main__":
    for policy in (None, "PASSIVE"):
        for processes in (1, 2):
            print(
                f"{policy or 'default':<8} {processes} at once: "
                f"{' '.join(at_once(processes, policy))} s",
                flush=True,
            )
