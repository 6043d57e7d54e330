"""Which databases and servers this process talks to: files under ERPD_HOME, unless the environment
names others.

| variable | when absent |
|---|---|
| `ERPD_REGISTRY_URL` | SQLite, `registry.db` (else `postgresql+psycopg://...`) |
| `ERPD_MLFLOW_URL` | SQLite, `mlflow/mlflow.db` (else the server's `http://...`; MLFLOW_TRACKING_USERNAME and _PASSWORD are MLflow's own) |
| `ERPD_STORE_URL` | no copy elsewhere (else an fsspec URL: `s3://bucket/erpd`, `gs://...`, `file:///mnt/...`) |
| `ERPD_RAY_ADDRESS` | a local Ray (else an existing cluster's address; `runtime.ray_address` of a recipe comes first) |

No password stands in them, since addresses are printed and logged: `check_urls` says where it goes
instead. Nor does one in the address of the hub, `HF_ENDPOINT`.

They say where, never what: none of them enters an identity. Light: imports no server's client.
"""  # noqa: E501

from __future__ import annotations

import json
import os
import re
from urllib.parse import parse_qsl, urlsplit

from pydantic_settings import BaseSettings, SettingsConfigDict

from tasks.host.home import home
from tasks.host.processes import Process

PLATFORM = "platform.json"
"""File under ERPD_HOME in which `erpd up` keeps what it started."""


SECRET = {
    "ERPD_REGISTRY_URL": "PGPASSWORD or ~/.pgpass",
    "ERPD_MLFLOW_URL": "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (of a database: "
    "PGPASSWORD)",
    "ERPD_STORE_URL": "the variables that its protocol reads (of S3: AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY)",
    "ERPD_RAY_ADDRESS": "RAY_AUTH_TOKEN",
    "PREFECT_API_URL": "PREFECT_API_AUTH_STRING",
    "HF_ENDPOINT": "HF_TOKEN",
}
"""Variable with an address -> where what it must not hold goes."""
WITH_USER = {"postgresql", "sftp", "ssh"}
"""Schemes in whose addresses the name of a user, which is no secret, may stand before the @."""
HARMLESS = {
    "postgresql": {
        "application_name", "channel_binding", "connect_timeout", "gssencmode", "host", "hostaddr",
        "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval", "options",
        "passfile", "port", "require_auth", "service", "sslcert", "sslcrl", "sslkey", "sslmode",
        "sslrootcert", "target_session_attrs", "tcp_user_timeout", "user",
    },
    "sqlite": {
        "cache", "check_same_thread", "immutable", "mode", "nolock", "timeout", "uri", "vfs",
    },
}  # fmt: skip
"""Scheme -> what may stand after the ? of its addresses: settings that hold no secret. Of other
schemes, nothing.
"""
_PASSWORD = re.compile(r"://[^/@:]*:[^@]*@")
"""Also one that has a slash in it, as SQLAlchemy reads them."""
_CHAIN = re.compile(r"::(?![^\[]*\])")
"""Between addresses of fsspec that are read one through another; not inside an address of IPv6."""


def check_urls() -> None:
    """Raises ValueError, in one line without the secret, for an address in the environment that
    holds one, or what may be one.
    """
    for name, instead in SECRET.items():
        if where := _secret_place(os.environ.get(name, "")):
            raise ValueError(
                f"{name}: holds a password, or what may be one, {where}, and addresses are "
                f"printed; take it out and put it into {instead}"
            )


def without_login(url: str) -> str:
    """`url` as it may be shown. Example: `without_login("http://me:secret@host/hub?key=1") ==
    "http://host/hub"`
    """
    scheme, mark, rest = _parted(url)
    return f"{scheme}{mark}{rest.rpartition('@')[2].partition('?')[0]}"


def _secret_place(url: str) -> str | None:
    if _PASSWORD.search(url):
        return "before its @"
    return next((place for one in _CHAIN.split(url) if (place := _secret_in(one))), None)


def _secret_in(url: str) -> str | None:
    """Where a single address, with or without a scheme, has what is not known to be harmless."""
    scheme, mark, rest = _parted(url)
    kind = scheme.lower().partition("+")[0]
    if kind == "file" or (rest.startswith("/") and not mark):  # a path may have any letters
        return None
    try:
        parts = urlsplit(f"//{rest}", allow_fragments=False)
    except ValueError:  # an address of IPv6 that is none
        return "in a host that cannot be read"
    login, at, _ = parts.netloc.rpartition("@")
    if at and not (kind in WITH_USER and re.fullmatch(r"(?:[\w.+-]|%40)+", login)):
        return "before its @"
    known = HARMLESS.get(kind, set())
    harmless = all(
        key.lower() in known for key, _ in parse_qsl(parts.query, keep_blank_values=True)
    )
    return None if harmless else "among the settings after its ?"


def _parted(url: str) -> tuple[str, str, str]:
    """Scheme, `://`, and the rest; both empty where there is no scheme."""
    return url.strip().partition("://") if "://" in url else ("", "", url.strip())


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
    """Where MLflow is looked at: the server that is told, or the one that `erpd up` started;
    None when none runs.
    """
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
    """The cluster to connect to: what the runtime asks for, else the environment's; None for a
    local Ray.
    """
    return asked or _Settings().ray_address
