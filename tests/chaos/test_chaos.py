"""Kill any process at any time: the campaign still ends as if nothing had happened.

`make chaos` runs more trials.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from services import Stack
from trials import Reference, Trial, run

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.ray, pytest.mark.timeout(2400)]


def test_a_campaign_survives(
    stack: Stack,
    reference: Reference,
    number: int,
    write: Callable[[Trial], None],
    request: pytest.FixtureRequest,
):
    trial = run(stack, number, request.config.getoption("seed", 0), reference)
    write(trial)
    assert trial.outcome == "equal", trial
