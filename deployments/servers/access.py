"""Where the platform listens, and who is let in: on loopback everybody of this machine, elsewhere
who has the login and nobody else.

The logins come from the environment, under the names that Prefect and MLflow themselves read; they
are in no file and no command line.
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
"""Characters of a password."""
HOW = (
    f"export {PREFECT_LOGIN}=USER:PASSWORD {MLFLOW_LOGIN[0]}=USER {MLFLOW_LOGIN[1]}=PASSWORD, "
    f"or stay on {LOOPBACK}"
)


def is_loopback(host: str) -> bool:
    """Does only this machine reach what listens there?"""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_host(host: str) -> None:
    """May the platform listen at this address? **Raises:** ValueError: it is none of this
    machine, or would be open to everybody.
    """
    if not host:
        raise ValueError("--host: is no address of this machine; `ip addr` prints those")
    try:
        with socket.create_server(
            (host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        ):
            pass
    except OSError as error:
        raise ValueError(
            f"--host {host}: is no address of this machine ({error.strerror or error}); `ip addr` "
            f"prints those"
        ) from error
    if is_loopback(host):
        return
    user, _, password = os.environ.get(PREFECT_LOGIN, "").partition(":")
    for who, name, secret in (
        ("Prefect", user, password),
        ("MLflow", *(os.environ.get(one, "") for one in MLFLOW_LOGIN)),
    ):
        if not name or not secret:
            raise ValueError(
                f"--host {host}: others reach that address, and {who} would let everybody in; {HOW}"
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
    """For those who speak to a platform that asks for one. **Raises:** BadInput: it is not in
    the environment.
    """
    if not os.environ.get("PREFECT_API_AUTH_STRING"):
        raise BadInput(
            "the platform of this ERPD_HOME asks for a login; export "
            "PREFECT_API_AUTH_STRING=USER:PASSWORD as for `erpd up`"
        )


def address(host: str) -> str:
    """Where what listens at `host` is asked from this machine, as part of a URL."""
    found = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)
    return f"[{found}]" if ":" in found else found


def mlflow_arguments(host: str) -> list[str]:
    return [] if is_loopback(host) else ["--app-name", "basic-auth"]


def mlflow_environment(host: str) -> dict[str, str]:
    """What MLflow's server is told about logins: the admin, and by which names it may be called
    (others are refused).
    """
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
    """Who may do what; no secret is in it."""
    path = home() / "mlflow" / "auth.ini"
    text = (
        f"[mlflow]\ndatabase_uri = "
        f"sqlite:///{home() / 'mlflow' / 'auth.db'}\ndefault_permission = READ\n"
    )
    write_atomically(path, lambda target: target.write_text(text.replace("%", "%%")))
    return path
