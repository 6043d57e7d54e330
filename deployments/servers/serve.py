"""The third process of `erpd up`: serves the deployments, answers decisions that nobody took in
time, and has dead runs marked Crashed.
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
SWEEP_SECONDS = 30.0


async def serve() -> None:
    """Serve until stopped. Of campaigns, studies and evaluations one runs at a time, in the
    order asked; reports run beside.
    """
    heavy = Runner(name="erpd", limit=1, pause_on_shutdown=False)
    light = Runner(name="erpd-reports", limit=2, pause_on_shutdown=False)
    for name, one in DEPLOYED.items():
        deployment = await one.flow.to_deployment(
            name,
            tags=list(one.tags),
            parameters=one.parameters,
            description=one.flow.description,
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        await (heavy if one.heavy else light).aadd_deployment(deployment)
    await mark_dead_runs()
    write_atomically(home() / SERVING, lambda path: path.write_text(str(os.getpid())))
    await asyncio.gather(heavy.start(), light.start(), _watch(), _sweep())


async def _watch() -> None:
    while True:
        await asyncio.to_thread(answer_overdue)
        await asyncio.sleep(WATCH_SECONDS)


async def _sweep() -> None:
    while True:
        with contextlib.suppress(httpx.HTTPError):  # busy, or away: the next round finds it
            await end_left_tasks()
        await asyncio.sleep(SWEEP_SECONDS)


if __name__ == "__main__":
    prepare()
    asyncio.run(serve())
