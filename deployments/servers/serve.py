"""The third process of `erpd up`: serves the deployments.

It also takes the automatic decision where nobody decided in time, and marks dead runs Crashed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os

import httpx
from prefect.deployments.runner import EntrypointType
from prefect.runner import Runner

from deployments.deployed_flows import DEPLOYED
from deployments.servers.dead_runs import end_left_tasks, mark_dead_runs
from deployments.servers.local_platform import SERVING
from flows.steps.human_decision import answer_overdue
from tasks.host.atomic_files import write_atomically
from tasks.host.home import home, prepare

WATCH_SECONDS = 5.0
"""Seconds between two looks for overdue decisions."""
SWEEP_SECONDS = 30.0
"""Seconds between two looks for dead task runs."""


async def serve() -> None:
    """Serve the deployments until stopped.

    Campaigns, studies and evaluations run one at a time, in the order requested. Reports run in
    parallel to them.
    """
    heavy = Runner(name="erpd", limit=1, pause_on_shutdown=False)
    light = Runner(name="erpd-reports", limit=2, pause_on_shutdown=False)
    for name, deployed in DEPLOYED.items():
        deployment = await deployed.flow.to_deployment(
            name,
            tags=list(deployed.tags),
            parameters=deployed.parameters,
            description=deployed.flow.description,
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        await (heavy if deployed.heavy else light).aadd_deployment(deployment)
    await mark_dead_runs()
    write_atomically(home() / SERVING, lambda path: path.write_text(str(os.getpid())))
    await asyncio.gather(heavy.start(), light.start(), _watch(), _sweep())


async def _watch() -> None:
    while True:
        await asyncio.to_thread(answer_overdue)
        await asyncio.sleep(WATCH_SECONDS)


async def _sweep() -> None:
    while True:
        with contextlib.suppress(
            httpx.HTTPError
        ):  # server busy or down: try again in the next round
            await end_left_tasks()
        await asyncio.sleep(SWEEP_SECONDS)


if __name__ == "__main__":
    prepare()
    asyncio.run(serve())
