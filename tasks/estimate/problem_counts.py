"""How many problems a campaign's sets have, without reading them."""

from __future__ import annotations

from erpd_core.config import CampaignConfig, NamedProblems, ProblemsConfig
from tasks.datasets.catalogue import catalogue

UNKNOWN = 500
"""Problems of a set that says no count: an assumption."""


def problem_counts(config: CampaignConfig) -> tuple[dict[str, int], list[str]]:
    """Of `prompts`, `validation` and each benchmark: (how many, the names of those that are only
    assumed).
    """
    sources = {
        "prompts": config.prompts,
        "validation": config.evaluation.validation,
        **config.evaluation.benchmarks,
    }
    found = {name: _count(source) for name, source in sources.items()}
    return {name: count or UNKNOWN for name, count in found.items()}, [
        name for name, count in found.items() if count is None
    ]


def _count(source: ProblemsConfig) -> int | None:
    if source.count is not None:
        return source.count
    if isinstance(source, NamedProblems):
        plain = {name.casefold(): one for name, one in catalogue().items()}
        one = plain.get(source.name.casefold())
        return one.rows if one else None
    return None
