"""Database of campaigns, their decisions and scores, and the lineage of their artifacts.

The registry is the source of truth; MLflow and Prefect only display it. The store
(`tasks/store/store.py`) holds the bytes of the artifacts.

- `registry.py`: `Registry`, the class that other packages use.
- `values.py`: the values that it returns.
- `lineage.py`: ancestors and descendants of an artifact.
- `artifact_roles.py`: the roles that artifacts play in campaigns.
- `tables.py`: the tables.
- `database.py`: connection, schema and upsert.
"""

from tasks.registry.lineage import Line, Lineage
from tasks.registry.registry import Registry, open_registry
from tasks.registry.values import (
    Artifact,
    ArtifactRole,
    Attached,
    CampaignRecord,
    IterationRecord,
    Kind,
    Reported,
    Status,
)

__all__ = [
    "Artifact",
    "ArtifactRole",
    "Attached",
    "CampaignRecord",
    "IterationRecord",
    "Kind",
    "Line",
    "Lineage",
    "Registry",
    "Reported",
    "Status",
    "open_registry",
]
