"""Where the platform listens and who may use it.

On loopback, every user of this machine may. On any other address, only users with the login may.
Logins come from the environment variables that Prefect and MLflow read themselves. They are never
in a file or on a command line.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import socket
from pathlib import Path

from deployments.output.console import BadInput
from tasks.host.atomic_files import write_atomically
from tasks.host.home import home

LOOPBACK = "127.0.0.1"
PREFECT_LOGIN = "PREFECT_SERVER_API_AUTH_STRING"
MLFLOW_LOGIN = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
SHORTEST = 12
"""Minimum length of a password, in characters."""
HOW = (
    f"export {PREFECT_LOGIN}=USER:PASSWORD {MLFLOW_LOGIN[0]}=USER {MLFLOW_LOGIN[1]}=PASSWORD, "
    f"or stay on {LOOPBACK}"
)


def is_loopback(host: str) -> bool:
    """Return True if only this machine can reach a server that listens on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_host(host: str) -> None:
    """Check that the platform may listen on this address.

    **Raises:** ValueError if it is not an address of this machine or would be open to everybody.
    """
    if not host:
        raise ValueError("--host: not an address of this machine; `ip addr` lists them")
    try:
        with socket.create_server(
            (host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        ):
            pass
    except OSError as error:
        raise ValueError(
            f"--host {host}: not an address of this machine ({error.strerror or error}); `ip "
            f"addr` lists them"
        ) from error
    if is_loopback(host):
        return
    user, _, password = os.environ.get(PREFECT_LOGIN, "").partition(":")
    for who, name, secret in (
        ("Prefect", user, password),
        ("MLflow", *(os.environ.get(variable, "") for variable in MLFLOW_LOGIN)),
    ):
        if not name or not secret:
            raise ValueError(
                f"--host {host}: others can reach that address, and {who} would let everybody in; "
                f"{HOW}"
            )
        if len(secret) < SHORTEST:
            raise ValueError(
                f"--host {host}: {who}'s password has fewer than {SHORTEST} characters; choose a "
                f"longer one"
            )
    if importlib.util.find_spec("flask_wtf") is None:
        raise ValueError(
            f"--host {host}: MLflow's login needs Flask-WTF; pip install -c constraints.txt -e "
            f"'.[cluster]'"
        )


def require_login() -> None:
    """Check that the environment has the login of the running platform. Raises BadInput if not."""
    if not os.environ.get("PREFECT_API_AUTH_STRING"):
        raise BadInput(
            "the platform of this ERPD_HOME requires a login; export "
            "PREFECT_API_AUTH_STRING=USER:PASSWORD as for `erpd up`"
        )


def address(host: str) -> str:
    """Return the host part of the URL of a server that listens on `host`, as seen from here."""
    reachable = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)
    return f"[{reachable}]" if ":" in reachable else reachable


def mlflow_arguments(host: str) -> list[str]:
    """Return the arguments of MLflow's server: logins are required away from loopback."""
    return [] if is_loopback(host) else ["--app-name", "basic-auth"]


def mlflow_environment(host: str) -> dict[str, str]:
    """Return MLflow's settings for logins: the admin, and the host names it accepts in requests."""
    if is_loopback(host):
        return {}
    user, password = (os.environ[name] for name in MLFLOW_LOGIN)
    names = dict.fromkeys((address(host), socket.gethostname(), "localhost", LOOPBACK))
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(_mlflow_config()),
        "MLFLOW_AUTH_ADMIN_USERNAME": user,
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": os.environ.get("MLFLOW_FLASK_SERVER_SECRET_KEY")
        or os.urandom(32).hex(),
        "MLFLOW_SERVER_ALLOWED_HOSTS": os.environ.get("MLFLOW_SERVER_ALLOWED_HOSTS")
        or ",".join(f"{name}:*" for name in names),
    }


def _mlflow_config() -> Path:
    """Write the configuration of MLflow's permissions, which contains no secret."""
    path = home() / "mlflow" / "auth.ini"
    text = (
        f"[mlflow]\ndatabase_uri = "
        f"sqlite:///{home() / 'mlflow' / 'auth.db'}\ndefault_permission = READ\n"
    )
    write_atomically(path, lambda target: target.write_text(text.replace("%", "%%")))
    return path
