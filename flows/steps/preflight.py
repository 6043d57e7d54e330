"""What is wrong with a campaign's inputs, found before anything starts."""

from __future__ import annotations

from contextlib import closing

from erpd_core.config import CampaignConfig
from tasks.datasets import check_problems, draw_problems
from tasks.estimate.preflight import check_room, check_runtime
from tasks.models.import_policy import import_policy
from tasks.registry import open_registry
from tasks.store import open_store


def check_inputs(config: CampaignConfig) -> None:
    """Raises ValueError for a runtime, model or data file that cannot work here, or on the
    cluster it is for, and a damaged registry.
    """
    check_runtime(config.runtime)
    import_policy(config.model)
    for name, source in {
        "prompts": config.prompts,
        "validation": config.evaluation.validation,
        **config.evaluation.benchmarks,
    }.items():
        draw_problems(name, source, 0)
        check_problems(source, 0)
    if mirror := open_store().mirror:
        mirror.check()
    check_room(config)
    with closing(open_registry()) as registry:  # last: a new home gets its registry here
        registry.check()
