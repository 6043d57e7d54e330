"""The registry: what was run, decided, made from what, and measured. It is the truth about lineage;
MLflow and Prefect are views.

`registry.py` the class everyone uses; `values.py` what it answers with; `lineage.py` ancestors and
descendants; `places.py` what campaigns hold on to; `models.py` the tables; `database.py`
connection, schema and upsert. Bytes are the store's business (`tasks/store/store.py`).
"""

from tasks.registry.lineage import Line, Lineage
from tasks.registry.registry import Registry, open_registry
from tasks.registry.values import (
    Artifact,
    ArtifactRole,
    Attached,
    Campaign,
    Iteration,
    Kind,
    Reported,
    Status,
)

__all__ = [
    "Artifact",
    "ArtifactRole",
    "Attached",
    "Campaign",
    "Iteration",
    "Kind",
    "Line",
    "Lineage",
    "Registry",
    "Reported",
    "Status",
    "open_registry",
]
