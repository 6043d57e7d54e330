"""ERPD_HOME: the one place the program writes to, and the settings of the libraries that must be
fixed before they are imported.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path

from tasks.untrusted.input_files import expanded

FOLDERS = ("store", "prefect", "mlflow", "ray", "logs", "tmp", "cache", "reports")


def home() -> Path:
    """The program's folder, absolute: `ERPD_HOME`, or `.erpd` in the working directory. Raises
    ValueError for one that leads nowhere.
    """
    path = expanded(os.environ.get("ERPD_HOME") or ".erpd", "ERPD_HOME")
    try:
        return path.resolve()
    except RuntimeError as error:  # so says Python before 3.13
        raise ValueError(f"ERPD_HOME {path}: is a loop of links; name another folder") from error


def point() -> Path:
    """Point every library that writes files into the home, which is not made. Call before importing
    prefect, ray, mlflow or torch.

    Settings a user has made in the environment win, except those that say where to write.

    Raises RuntimeError where ray is imported already without RAY_AUTH_MODE: it has fixed then that
    its clusters ask for no token.
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
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(root / "ray" / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # who tells it waits beside the work, and asks again
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "DO_NOT_TRACK": "true",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }.items():
        os.environ.setdefault(name, value)
    if login := os.environ.get("PREFECT_SERVER_API_AUTH_STRING"):
        # who starts the server is its client too
        os.environ.setdefault("PREFECT_API_AUTH_STRING", login)
    return root


def remove_empty() -> None:
    """Take a home away again that holds no file: importing torch makes an empty folder in it,
    whatever comes then.
    """
    for folder, _, _ in os.walk(home(), topdown=False):
        with contextlib.suppress(OSError):  # one that holds something
            os.rmdir(folder)


def prepare() -> Path:
    """Make the home and point every library into it. Idempotent; what people gave is checked
    before, so that a wrong word makes no home.
    """
    root = point()
    for folder in FOLDERS:
        (root / folder).mkdir(parents=True, exist_ok=True)
    tempfile.tempdir = None  # the folder of TMPDIR is there now
    _make_token(Path(os.environ["RAY_AUTH_TOKEN_PATH"]))
    return root


def _make_token(path: Path) -> None:
    """Ray's token, for this user alone; it appears whole, and of two processes that make it at once
    one's is taken. An empty one, which a full disk leaves, is made anew.
    """
    if path.exists() and path.stat().st_size == 0:
        path.unlink(missing_ok=True)
    if path.exists():
        return
    import secrets

    fd, made = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")  # of mode 600
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
    """The file to which a campaign's stages write their progress."""
    return home() / "logs" / f"{campaign}.events.jsonl"


def reports_path(campaign: str) -> Path:
    """The folder of the report of a campaign or study, and of its figures."""
    return home() / "reports" / campaign
