"""What Ray's workers import for a stage."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from ray_lab import own_ray

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.ray]


@pytest.fixture(scope="module")
def prefect_server() -> Iterator[None]:
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120), own_ray():
        yield


@pytest.mark.usefixtures("prefect_server")
def test_a_worker_knows_its_flow_run_but_not_the_modules_of_the_flow():
    from prefect import flow, task
    from prefect.runtime import flow_run

    import flows.campaign
    from tasks.execution.ray_runner import RayRunner

    @task
    def look() -> tuple[Any, bool]:
        return flow_run.id, any(name.startswith("flows.") for name in sys.modules)

    # a flow whose function and parameter live in `flows`, as a campaign's do
    @flow(name="campaign", task_runner=RayRunner())
    def campaign(prepared: Any) -> Any:
        return look.submit().result(), flow_run.id

    (seen, imported), run = campaign(flows.campaign.Campaign)
    assert seen == run, "its task runs are those of the flow run"
    assert not imported
