"""Access: hosts that the platform may listen on, and addresses without secrets.

Refusals are one line, before anything starts.
"""

from __future__ import annotations

import importlib.util
import os
import stat
from pathlib import Path

import pytest
from helpers import erpd, processes_of

from deployments.servers import access
from tasks.host.services import SECRET, check_urls, without_login

LOGINS = {
    "PREFECT_SERVER_API_AUTH_STRING": "admin:a long password",
    "MLFLOW_TRACKING_USERNAME": "admin",
    "MLFLOW_TRACKING_PASSWORD": "another long password",
}


@pytest.fixture(autouse=True)
def no_logins(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*LOGINS, *SECRET, "PREFECT_API_AUTH_STRING"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost"])
def test_loopback_needs_no_login(host: str):
    access.check_host(host)
    assert access.mlflow_arguments(host) == [] and access.mlflow_environment(host) == {}


@pytest.mark.parametrize("missing", LOGINS)
def test_elsewhere_every_login_must_be_set(missing: str, monkeypatch: pytest.MonkeyPatch):
    for name, value in LOGINS.items():
        if name != missing:
            monkeypatch.setenv(name, value)
    with pytest.raises(
        ValueError, match="would let everybody in; export PREFECT_SERVER_API_AUTH_STRING"
    ) as caught:
        access.check_host("0.0.0.0")
    assert "\n" not in str(caught.value) and "long password" not in str(caught.value)


@pytest.mark.parametrize("weak", ["admin:short", "admin:", ":a long password", "no colon in it"])
def test_a_login_has_a_name_and_a_password_that_is_not_guessed(
    weak: str, monkeypatch: pytest.MonkeyPatch
):
    for name, value in (LOGINS | {"PREFECT_SERVER_API_AUTH_STRING": weak}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="Prefect"):
        access.check_host("0.0.0.0")


@pytest.mark.parametrize(
    "host", ["192.0.2.77", "no.such.host.invalid", "", "127.0.0.1:80", "300.1.1.1"]
)
def test_an_address_of_another_machine_is_refused(host: str, monkeypatch: pytest.MonkeyPatch):
    for name, value in LOGINS.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="not an address of this machine"):
        access.check_host(host)


def test_with_both_logins_mlflow_asks_for_its_own(monkeypatch: pytest.MonkeyPatch):
    # find_spec, not an import: Flask's proxies would break vLLM later in this process
    if importlib.util.find_spec("flask_wtf") is None:
        pytest.skip("MLflow's login needs Flask-WTF: pip install -e '.[cluster]'")
    for name, value in LOGINS.items():
        monkeypatch.setenv(name, value)
    access.check_host("0.0.0.0")
    environment = access.mlflow_environment("0.0.0.0")
    assert access.mlflow_arguments("0.0.0.0") == ["--app-name", "basic-auth"]
    assert environment["MLFLOW_AUTH_ADMIN_PASSWORD"] == LOGINS["MLFLOW_TRACKING_PASSWORD"]
    assert "*" not in environment["MLFLOW_SERVER_ALLOWED_HOSTS"].replace(":*", "")
    assert not any(
        secret in Path(environment["MLFLOW_AUTH_CONFIG_PATH"]).read_text()
        for secret in LOGINS.values()
        if secret != "admin"
    )


def test_up_elsewhere_without_logins_is_exit_code_2_and_starts_nothing(tmp_path: Path):
    done = erpd("up", "--host", "0.0.0.0", home=tmp_path)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.count("\n") == 1, done.stderr
    assert "PREFECT_SERVER_API_AUTH_STRING" in done.stderr
    assert processes_of(tmp_path) == [] and not (tmp_path / "platform.json").exists()
    token = tmp_path / "ray" / "token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600 and len(token.read_text()) == 64, (
        "Ray's clusters always require a token"
    )


# ---------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("ERPD_REGISTRY_URL", "postgresql+psycopg://erpd:hunter2@db/erpd"),
        ("ERPD_REGISTRY_URL", "postgresql+psycopg://erpd:hun/ter2@db/erpd"),
        ("ERPD_REGISTRY_URL", "postgresql+psycopg://erpd:@db/erpd?PASSWORD=hunter2"),
        ("ERPD_REGISTRY_URL", "postgresql+psycopg:///erpd?user=a&password=hunter2"),
        ("ERPD_MLFLOW_URL", "http://admin:hunter2@mlflow:5000"),
        ("ERPD_STORE_URL", "ftp://user:hunter2@host/erpd"),
        ("PREFECT_API_URL", "https://admin:hunter2@prefect/api"),
        ("ERPD_REGISTRY_URL", "postgresql+psycopg://erpd@hunter2@db/erpd"),
        ("ERPD_REGISTRY_URL", "postgresql://db/erpd?sslmode=require&sslpassword=hunter2"),
        ("ERPD_REGISTRY_URL", "sqlite+pysqlcipher:////tmp/registry.db?key=hunter2"),
        ("ERPD_MLFLOW_URL", "https://hunter2@host"),
        ("ERPD_MLFLOW_URL", "http://[::1]:5000?hunter2"),
        ("ERPD_MLFLOW_URL", "http://[hunter2"),
        ("ERPD_STORE_URL", "simplecache::s3://AKIA:hunter2@bucket/erpd"),
        ("ERPD_STORE_URL", "zip://all.zip::simplecache::s3://hunter2@bucket/all.zip"),
        ("ERPD_STORE_URL", "s3://AKIA:hun::ter2@bucket/erpd"),
        ("ERPD_STORE_URL", "az://container/erpd?sig=hunter2"),
        ("ERPD_STORE_URL", "my_fs://me:hunter2@host/erpd"),
        ("ERPD_STORE_URL", "sftp://me:hunter2@host/erpd"),
        ("ERPD_RAY_ADDRESS", "me:hunter2@host:6379"),
        ("ERPD_RAY_ADDRESS", "host:6379?token=hunter2"),
        ("HF_ENDPOINT", "http://me:hunter2@127.0.0.1:9"),
    ],
)
def test_an_address_with_a_password_is_refused_without_saying_it(
    name: str, url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(name, url)
    with pytest.raises(ValueError, match=f"^{name}: holds a password") as caught:
        check_urls()
    assert (
        SECRET[name] in str(caught.value)
        and "ter2" not in str(caught.value)
        and "\n" not in str(caught.value)
    )


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("ERPD_REGISTRY_URL", "postgresql+psycopg://erpd@db:5432/erpd?sslmode=require"),
        ("ERPD_REGISTRY_URL", "sqlite:////tmp/a b/100%/registry.db"),
        ("ERPD_MLFLOW_URL", "http://[::1]:5000"),
        ("ERPD_STORE_URL", "s3://bucket/erpd@home"),
        ("ERPD_STORE_URL", "file:///mnt/a:b@c"),
        (
            "ERPD_REGISTRY_URL",
            "postgresql+psycopg://me%40there@[::1]:5432/erpd?SSLMODE=verify-full&sslrootcert=/a@b/ca.pem",
        ),
        ("ERPD_REGISTRY_URL", "postgresql+psycopg:///erpd?host=/var/run/postgresql&user=erpd"),
        ("ERPD_REGISTRY_URL", "sqlite:///file:/tmp/registry.db?mode=ro&uri=true"),
        ("ERPD_MLFLOW_URL", "postgresql+psycopg:///mlflow"),
        ("ERPD_STORE_URL", "simplecache::s3://bucket/erpd"),
        ("ERPD_STORE_URL", "sftp://me@host/erpd"),
        ("ERPD_STORE_URL", "file:///mnt/why?/a=b"),
        ("ERPD_STORE_URL", "/mnt/a@b?c"),
        ("HF_ENDPOINT", "https://mirror:8443/hub"),
        ("ERPD_RAY_ADDRESS", "host:6379"),
        ("ERPD_RAY_ADDRESS", "ray://host:10001"),
        ("PREFECT_API_URL", ""),
    ],
)
def test_an_address_without_one_is_taken(name: str, url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(name, url)
    check_urls()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://me:hunter2@127.0.0.1:9", "http://127.0.0.1:9"),
        ("https://hunter2@host/hub", "https://host/hub"),
        ("https://me:hun/t?er2@host/hub", "https://host/hub"),
        ("me:hunter2@host", "host"),
        ("https://host/hub?token=hunter2", "https://host/hub"),
        ("https://huggingface.co", "https://huggingface.co"),
    ],
)
def test_an_address_is_shown_without_its_login(url: str, shown: str):
    assert without_login(url) == shown


def test_every_command_refuses_it(tmp_path: Path):
    done = erpd("campaigns", home=tmp_path, ERPD_MLFLOW_URL="http://admin:hunter2@mlflow:5000")
    assert (
        done.returncode == 2
        and "MLFLOW_TRACKING_PASSWORD" in done.stderr
        and "hunter2" not in done.stdout + done.stderr
    )
    assert os.listdir(tmp_path) == []


def test_a_home_that_leads_nowhere_is_refused(tmp_path: Path):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for home in (Path("~nosuchuser/x"), loop):
        done = erpd("recipes", home=home, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith(
            f"erpd: ERPD_HOME {home}: "
        ), done.stderr
        assert done.stderr.count("\n") == 1 and os.listdir(tmp_path) == ["loop"]
