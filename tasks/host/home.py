"""ERPD_HOME, the only folder the program writes to, and environment settings for libraries.

These settings must be made before the libraries are imported.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path

from tasks.untrusted.input_files import expanded

FOLDERS = ("store", "prefect", "mlflow", "ray", "logs", "tmp", "cache", "reports")
"""Subfolders of ERPD_HOME."""


def home() -> Path:
    """Absolute path of the program's folder: `ERPD_HOME`, or `.erpd` in the working directory.

    **Raises:** ValueError for an unknown user after `~` and for a loop of links.
    """
    path = expanded(os.environ.get("ERPD_HOME") or ".erpd", "ERPD_HOME")
    try:
        return path.resolve()
    except RuntimeError as error:  # Python before 3.13 reports a loop this way
        raise ValueError(f"ERPD_HOME {path}: is a loop of links; name another folder") from error


def point() -> Path:
    """Set the environment so that every library writes into ERPD_HOME. Does not create it.

    Call this before importing prefect, ray, mlflow or torch. Settings that the user has made in
    the environment take precedence, except those that say where to write.

    **Returns:** The home.
    **Raises:** RuntimeError if ray is already imported without RAY_AUTH_MODE. At import it decides
        whether its clusters require a token.
    """
    if "ray" in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        raise RuntimeError(
            "ray was imported before tasks.host.home.prepare(): call it first, or set "
            "RAY_AUTH_MODE=token before importing ray"
        )
    root = home()
    os.environ |= {
        "ERPD_HOME": str(root),
        "PREFECT_HOME": str(root / "prefect"),
        "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(root / "prefect" / "storage"),
        "PREFECT_SERVER_MEMO_STORE_PATH": str(root / "prefect" / "memo.toml"),
        "MPLCONFIGDIR": str(root / "cache" / "matplotlib"),
        "TORCHINDUCTOR_CACHE_DIR": str(root / "cache" / "inductor"),
        "TMPDIR": str(root / "tmp"),
    }
    for name, value in {
        "HF_HOME": str(root / "cache" / "huggingface"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_API_URL": "/api",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "PREFECT_LOGGING_LOGGERS_PREFECT_FLOW_RUNS_LEVEL": "INFO",  # for the log in the UI
        "PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL": "INFO",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_RUNNER_POLL_FREQUENCY": "2",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(root / "ray" / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # the tracking queue waits in the background and retries
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "DO_NOT_TRACK": "true",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # by default OpenMP's threads spin while they wait for each other, and starve where another
        # process has a core
        "OMP_WAIT_POLICY": "PASSIVE",
    }.items():
        os.environ.setdefault(name, value)
    if "PREFECT_API_URL" in os.environ:
        # for a server that outlives this process
        os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "30")
    if login := os.environ.get("PREFECT_SERVER_API_AUTH_STRING"):
        # the process that starts the server is also its client
        os.environ.setdefault("PREFECT_API_AUTH_STRING", login)
    return root


def remove_empty() -> None:
    """Remove the home's empty folders, and the home itself if it holds no file.

    Importing torch creates an empty folder in it even if the command then fails.
    """
    for folder, _, _ in os.walk(home(), topdown=False):
        with contextlib.suppress(OSError):  # the folder is not empty
            os.rmdir(folder)


def prepare() -> Path:
    """Create ERPD_HOME and set the environment so that every library writes into it.

    Idempotent. Check user input before calling this, so that a typing error creates no home.

    Returns the home. Raises the errors of `home` and `point`.
    """
    root = point()
    for folder in FOLDERS:
        (root / folder).mkdir(parents=True, exist_ok=True)
    tempfile.tempdir = None  # forget the default chosen before TMPDIR existed
    _make_token(Path(os.environ["RAY_AUTH_TOKEN_PATH"]))
    return root


def _make_token(path: Path) -> None:
    """Create Ray's token file, readable by this user only.

    The file appears complete. If two processes create it at the same time, the first one's token
    is kept. An empty file, which a full disk leaves behind, is replaced.
    """
    if path.exists() and path.stat().st_size == 0:
        path.unlink(missing_ok=True)
    if path.exists():
        return
    import secrets

    fd, made = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")  # mode 600
    try:
        with os.fdopen(fd, "w") as file:
            file.write(secrets.token_hex(32))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(made, path)
    finally:
        os.unlink(made)


def events_path(campaign: str) -> Path:
    """File to which a campaign's stages write their progress."""
    return home() / "logs" / f"{campaign}.events.jsonl"


def reports_path(campaign: str) -> Path:
    """Folder for the report of a campaign or study and its figures."""
    return home() / "reports" / campaign
