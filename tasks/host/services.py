"""Addresses of the databases and servers that this process uses.

The defaults are files under ERPD_HOME; the environment can name others:

| variable | default | otherwise |
|---|---|---|
| `ERPD_REGISTRY_URL` | SQLite, `registry.db` | `postgresql+psycopg://...` |
| `ERPD_MLFLOW_URL` | SQLite, `mlflow/mlflow.db` | the server's `http://...`; MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD are MLflow's own |
| `ERPD_STORE_URL` | no mirror | an fsspec URL: `s3://bucket/erpd`, `gs://...`, `file:///mnt/...` |
| `ERPD_RAY_ADDRESS` | a local Ray | an existing cluster's address; `runtime.ray_address` of a recipe takes precedence |

An address must not contain a password, because addresses are printed and logged. This includes the
address of the Hugging Face hub, `HF_ENDPOINT`. `check_urls` reports where the password goes instead.

Addresses do not affect results, so none of them enters an identity. This module is cheap to import:
it imports no client library.
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
"""File under ERPD_HOME in which `erpd up` records the servers it started."""


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
"""Variable that holds an address -> where its password or key goes instead."""
WITH_USER = {"postgresql", "sftp", "ssh"}
"""Schemes whose addresses may have a user name before the @; a user name is no secret."""
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
"""Scheme -> settings that are allowed after the ? of an address because they hold no secret.

Other schemes allow none.
"""
_PASSWORD = re.compile(r"://[^/@:]*:[^@]*@")
"""Matches a password before an @, also one with a slash, which SQLAlchemy accepts."""
_CHAIN = re.compile(r"::(?![^\[]*\])")
"""Separator of chained fsspec addresses; does not match inside an IPv6 address."""


def check_urls() -> None:
    """Check that no address in the environment contains a secret.

    **Raises:** ValueError if one does or may do so. The message is one line and does not repeat the
        secret.
    """
    for name, instead in SECRET.items():
        if where := _secret_place(os.environ.get(name, "")):
            raise ValueError(
                f"{name}: holds a password, or what may be one, {where}, and addresses are "
                f"printed; take it out and put it into {instead}"
            )


def without_login(url: str) -> str:
    """Strip user, password and query from `url`, so that it can be shown.

    **Example:** `without_login("http://me:secret@host/hub?key=1") == "http://host/hub"`
    """
    scheme, mark, rest = _parted(url)
    return f"{scheme}{mark}{rest.rpartition('@')[2].partition('?')[0]}"


def _secret_place(url: str) -> str | None:
    """Where an address, possibly a chained one, may contain a secret; None if nowhere."""
    if _PASSWORD.search(url):
        return "before its @"
    return next((place for link in _CHAIN.split(url) if (place := _secret_in(link))), None)


def _secret_in(url: str) -> str | None:
    """Where a single address has a part that is not known to be harmless; None if nowhere.

    The address may lack a scheme.
    """
    scheme, mark, rest = _parted(url)
    kind = scheme.lower().partition("+")[0]
    if kind == "file" or (rest.startswith("/") and not mark):  # a path may have any characters
        return None
    try:
        parts = urlsplit(f"//{rest}", allow_fragments=False)
    except ValueError:  # a malformed IPv6 address
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
    """Split an address into scheme, `://` and the rest; the first two may be empty."""
    return url.strip().partition("://") if "://" in url else ("", "", url.strip())


class _Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="ERPD_", env_ignore_empty=True)

    registry_url: str | None = None
    mlflow_url: str | None = None
    store_url: str | None = None
    ray_address: str | None = None


def registry_url() -> str:
    """URL of the registry's database."""
    return _Settings().registry_url or f"sqlite:///{home() / 'registry.db'}"


def mlflow_url() -> str:
    """Address to which runs are logged: MLflow's database or server."""
    return _Settings().mlflow_url or f"sqlite:///{home() / 'mlflow' / 'mlflow.db'}"


def mlflow_ui() -> str | None:
    """Address of MLflow's web UI: the server of `mlflow_url`, or the one started by `erpd up`.

    None if no server runs.
    """
    if (url := mlflow_url()).startswith("http"):
        return url.rstrip("/")
    try:
        started = json.loads((home() / PLATFORM).read_bytes())["mlflow"]
    except (FileNotFoundError, ValueError):
        return None
    return str(started["url"]) if started and Process.model_validate(started).alive() else None


def store_url() -> str | None:
    """URL of the mirror to which finished artifacts are copied; None if there is none."""
    return _Settings().store_url


def ray_address(asked: str | None) -> str | None:
    """Address of the Ray cluster to connect to; None for a local Ray.

    `asked`, the runtime's setting, takes precedence over ERPD_RAY_ADDRESS.
    """
    return asked or _Settings().ray_address
