"""Which databases and servers this process talks to: files under ERPD_HOME, unless the environment names others.

| variable | when absent |
|---|---|
| `ERPD_REGISTRY_URL` | SQLite, `registry.db` (else `postgresql+psycopg://...`) |
| `ERPD_MLFLOW_URL` | SQLite, `mlflow/mlflow.db` (else the server's `http://...`; MLFLOW_TRACKING_USERNAME and _PASSWORD are MLflow's own) |
| `ERPD_STORE_URL` | no copy elsewhere (else an fsspec URL: `s3://bucket/erpd`, `gs://...`, `file:///mnt/...`) |
| `ERPD_RAY_ADDRESS` | a local Ray (else an existing cluster's address; `runtime.ray_address` of a recipe comes first) |

No password stands in them, since addresses are printed and logged: `check_urls` says where it goes instead.

They say where, never what: none of them enters an identity. Light: imports no server's client.
"""

from __future__ import annotations

import json
import os
import re

from pydantic_settings import BaseSettings, SettingsConfigDict

from tasks.home import home
from tasks.processes import Process

PLATFORM = "platform.json"
"""File under ERPD_HOME in which `erpd up` keeps what it started."""


SECRET = {
    "ERPD_REGISTRY_URL": "PGPASSWORD or ~/.pgpass",
    "ERPD_MLFLOW_URL": "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (of a database: PGPASSWORD)",
    "ERPD_STORE_URL": "the variables that its protocol reads (of S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)",
    "ERPD_RAY_ADDRESS": "RAY_AUTH_TOKEN",
    "PREFECT_API_URL": "PREFECT_API_AUTH_STRING",
}
"""Variable with an address -> where what it must not hold goes."""
_WITH_SECRET = re.compile(r"^[\w+.-]+://[^/@:]*:[^@]*@|[?&](?:password|passwd|token|secret|key)=", re.IGNORECASE)


def check_urls() -> None:
    """Raises ValueError, in one line without the secret, for an address in the environment that holds one."""
    for name, instead in SECRET.items():
        if _WITH_SECRET.search(os.environ.get(name, "")):
            raise ValueError(f"{name}: holds a password, and addresses are printed; take it out and put it into {instead}")


class _Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="ERPD_", env_ignore_empty=True)

    registry_url: str | None = None
    mlflow_url: str | None = None
    store_url: str | None = None
    ray_address: str | None = None


def registry_url() -> str:
    return _Settings().registry_url or f"sqlite:///{home() / 'registry.db'}"


def mlflow_url() -> str:
    """Where MLflow is told: a database, or a server."""
    return _Settings().mlflow_url or f"sqlite:///{home() / 'mlflow' / 'mlflow.db'}"


def mlflow_ui() -> str | None:
    """Where MLflow is looked at: the server that is told, or the one that `erpd up` started; None when none runs."""
    if (url := mlflow_url()).startswith("http"):
        return url.rstrip("/")
    try:
        started = json.loads((home() / PLATFORM).read_bytes())["mlflow"]
    except (FileNotFoundError, ValueError):
        return None
    return str(started["url"]) if started and Process.model_validate(started).alive() else None


def store_url() -> str | None:
    """Where finished artifacts are copied to, and fetched from."""
    return _Settings().store_url


def ray_address(asked: str | None) -> str | None:
    """The cluster to connect to: what the runtime asks for, else the environment's; None for a local Ray."""
    return asked or _Settings().ray_address
