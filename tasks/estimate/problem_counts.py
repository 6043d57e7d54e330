"""The number of problems in a campaign's sets, without reading them."""

from __future__ import annotations

from erpd_core.config import CampaignConfig, NamedProblems, ProblemsConfig
from tasks.datasets.catalogue import catalogue

UNKNOWN = 500
"""Number of problems assumed for a set without a known count."""


def problem_counts(config: CampaignConfig) -> tuple[dict[str, int], list[str]]:
    """Count the problems of `prompts`, `validation` and each benchmark.

    **Returns:** Counts by name, and the names of those that are only assumed.
    """
    sources = {
        "prompts": config.prompts,
        "validation": config.evaluation.validation,
        **config.evaluation.benchmarks,
    }
    counts = {name: _count(source) for name, source in sources.items()}
    return {name: count or UNKNOWN for name, count in counts.items()}, [
        name for name, count in counts.items() if count is None
    ]


def _count(source: ProblemsConfig) -> int | None:
    if source.count is not None:
        return source.count
    if isinstance(source, NamedProblems):
        plain = {name.casefold(): entry for name, entry in catalogue().items()}
        entry = plain.get(source.name.casefold())
        return entry.rows if entry else None
    return None
