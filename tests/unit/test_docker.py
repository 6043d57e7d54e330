"""docker/ and deployments/prefect.yaml: what users rely on, checked without a container engine."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import compose
import pytest
import yaml
from compose import FOLDER
from helpers import ROOT

WRITTEN = compose.written()
SERVICES: dict[str, dict[str, Any]] = WRITTEN["services"]
ENDS = {"databases"}
"""Services that exit when their work is done; all others keep running."""
STAY = sorted(set(SERVICES) - ENDS)
SECRET = re.compile(r"PASSWORD|TOKEN|SECRET|AUTH_STRING|API_KEY")
EXAMPLE = (FOLDER / ".env.example").read_text(encoding="utf-8")
DEPLOYMENTS = {
    deployment["name"]: deployment
    for deployment in yaml.safe_load(
        (ROOT / "deployments" / "prefect.yaml").read_text(encoding="utf-8")
    )["deployments"]
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def tool(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a linter of the `dev` extra, installed next to this Python."""
    return subprocess.run(
        [str(Path(sys.executable).parent / name), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
    )


def example_names(prefix: str) -> set[str]:
    """Names in .env.example whose line begins with `prefix`: "" if required, "# " if optional."""
    return set(re.findall(rf"^{prefix}([A-Z_]+)=", EXAMPLE, re.MULTILINE))


def instructions(*names: str) -> list[tuple[str, str]]:
    """The Dockerfile's instructions of these names, with continued lines joined."""
    lines = re.sub(r"\\\n", " ", (FOLDER / "Dockerfile").read_text(encoding="utf-8")).splitlines()
    words = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    return [(name, rest) for name, rest in words if name in names]


# -------------------------------------------------------------------------------------------- files


def test_the_compose_file_is_one_by_the_compose_specification(tmp_path: Path) -> None:
    interpolated = compose.interpolated(WRITTEN, dict.fromkeys(example_names(""), "given"))
    (tmp_path / "compose.yaml").write_text(yaml.safe_dump(interpolated), encoding="utf-8")
    for path in (FOLDER / "compose.yaml", tmp_path / "compose.yaml"):
        done = tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", path)
        assert done.returncode == 0, done.stdout


def test_dockerfile_and_scripts_have_nothing_a_linter_would_say() -> None:
    linted = [
        tool("hadolint", FOLDER / "Dockerfile"),
        tool("shellcheck", *sorted(FOLDER.glob("*.sh"))),
    ]
    assert [done.stdout for done in linted if done.returncode or done.stdout] == []


def test_every_script_that_is_run_may_be() -> None:
    assert [path.name for path in FOLDER.glob("*.sh") if not path.stat().st_mode & 0o111] == []


# ----------------------------------------------------------------------------------------- services


def test_ports_are_published_on_loopback_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert len(ports) == 2
    assert [
        port for port in ports if not (isinstance(port, str) and port.startswith("127.0.0.1:"))
    ] == []
    assert [name for name, service in SERVICES.items() if "network_mode" in service] == []


def test_the_database_is_on_a_network_without_a_way_out() -> None:
    assert SERVICES["postgres"]["networks"] == ["data"] and WRITTEN["networks"]["data"] == {
        "internal": True
    }


@pytest.mark.parametrize("name", STAY)
def test_a_service_that_stays_is_watched_and_restarted(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"][0] == "CMD" and service["healthcheck"]["retries"] > 1
    assert service["deploy"]["resources"]["limits"]["memory"]
    assert service["security_opt"] == ["no-new-privileges:true"] and not service.get("privileged")


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_waits_until_what_it_needs_is_ready(name: str) -> None:
    for needed, how in SERVICES[name].get("depends_on", {}).items():
        assert how == {
            "condition": "service_completed_successfully" if needed in ENDS else "service_healthy"
        }
        assert needed in SERVICES and "profiles" not in SERVICES[needed]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_an_image_is_pinned(name: str) -> None:
    """Our images to the project's version, other images to one release."""
    image = SERVICES[name]["image"]
    if "build" in SERVICES[name]:
        target = SERVICES[name]["build"]["target"]
        assert image == f"erpd:{PROJECT['version']}-{target}" and (
            "FROM",
            f"base AS {target}",
        ) in instructions("FROM")
    else:
        assert re.fullmatch(r"[a-z]+:\d+\.\d+(\.\d+)?-[a-z]+", image)


def test_gpus_are_asked_for_in_the_profile_of_that_name_only() -> None:
    with_gpus = {
        name
        for name, service in SERVICES.items()
        if "devices" in service.get("deploy", {}).get("resources", {}).get("reservations", {})
    }
    assert (
        with_gpus
        == {name for name, service in SERVICES.items() if "profiles" in service}
        == {"ray-worker-gpu"}
    )
    assert SERVICES["ray-worker-gpu"]["profiles"] == ["gpu"]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_files_a_service_is_given_are_there(name: str) -> None:
    command = [
        *SERVICES[name].get("command", ()),
        *SERVICES[name].get("healthcheck", {}).get("test", ()),
    ]
    mounted = [
        volume.split(":")[0]
        for volume in SERVICES[name].get("volumes", ())
        if volume.startswith(".")
    ]
    assert [
        word for word in command if word.startswith("docker/") and not (ROOT / word).is_file()
    ] == []
    assert [path for path in mounted if not (FOLDER / path).is_file()] == []


# ------------------------------------------------------------------------------------------ secrets


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_secret_comes_from_the_environment_and_stops_everything_when_it_is_missing(
    name: str,
) -> None:
    environment = SERVICES[name].get("environment", {})
    for variable in environment:
        if SECRET.search(variable):
            assert compose.variables(environment[variable], "?"), (
                f"{variable} of {name} is {environment[variable]!r}"
            )
    given = compose.variables(environment, "?")
    assert given == compose.variables(SERVICES[name], "?"), (
        f"a secret of {name} is outside its environment"
    )
    assert compose.variables(SERVICES[name], None) == set(), (
        f"{name} has a variable that may be absent without an error"
    )


def test_the_example_names_what_compose_asks_for_and_gives_no_value_that_works() -> None:
    assert example_names("") == compose.variables(WRITTEN, "?")
    assert example_names("# ") == compose.variables(WRITTEN, "-")
    for name in example_names(""):
        with pytest.raises(KeyError, match=name):
            compose.interpolated(
                WRITTEN, dict.fromkeys(example_names("") - {name}, "given") | {name: ""}
            )


def test_defaults_in_the_example_are_those_of_compose() -> None:
    examples = dict(re.findall(r"^# ([A-Z_]+)=(.*)$", EXAMPLE, re.MULTILINE))
    used = {
        match["name"]: match["text"]
        for text in compose.texts(WRITTEN)
        for match in compose.VARIABLE.finditer(text)
    }
    assert examples == {name: used[name] for name in examples}


def test_no_file_has_a_secret_in_it() -> None:
    files = [
        path
        for path in FOLDER.iterdir()
        if path.is_file() and path.suffix != ".env" and path.name != ".env"
    ]
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"://[^/\s:@]+:[^/\s@]+@", text), f"{path.name}: a URL with a password"
        assert not re.search(r"(?=[A-Za-z]*\d)[A-Za-z0-9]{24,}", text), (
            f"{path.name}: a long random text"
        )
        assigned = re.findall(
            r"^\s*(?:export |ENV |ARG )?(\w*(?:PASSWORD|TOKEN|SECRET)\w*)\s*[=:][ \t]*([^\s*]\S*)",
            text,
            re.MULTILINE,
        )
        assert [(name, value) for name, value in assigned if not value.startswith("${")] == [], (
            path.name
        )


def test_an_environment_is_made_once_with_a_value_for_every_name(tmp_path: Path) -> None:
    for name in (".env.example", "make-env.sh"):
        shutil.copy(FOLDER / name, tmp_path / name)
    subprocess.run([tmp_path / "make-env.sh"], check=True)
    made = (tmp_path / ".env").read_text(encoding="utf-8")
    values = dict(re.findall(r"^([A-Z_]+)=([0-9a-f]{48})$", made, re.MULTILINE))
    assert set(values) == example_names("") and len(set(values.values())) == len(values)
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    again = subprocess.run([tmp_path / "make-env.sh"], capture_output=True, text=True)
    assert (
        again.returncode == 2
        and "already" in again.stderr
        and (tmp_path / ".env").read_text(encoding="utf-8") == made
    )


def test_an_environment_of_ones_own_stays_out_of_commits_and_images() -> None:
    assert {".env", "*.env"} <= set((FOLDER / ".gitignore").read_text(encoding="utf-8").split())
    kept = (FOLDER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    kept = [line for line in kept if not line.startswith("#")]
    assert kept[0] == "*" and kept.index("!docker") < min(
        kept.index("docker/.env"), kept.index("docker/*.env")
    )
    assert [line for line in kept if line.startswith("!") and not (ROOT / line[1:]).exists()] == []


# ------------------------------------------------------------------------------------------- images


def test_images_start_from_one_pinned_python_of_the_version_of_the_constraints() -> None:
    (argument,) = [rest for _, rest in instructions("ARG") if rest.startswith("PYTHON=")]
    assert re.fullmatch(r"PYTHON=python:3\.11\.\d+-slim-bookworm", argument)
    stages: set[str] = set()
    for _, rest in instructions("FROM"):
        source, _, stage = rest.partition(" AS ")
        assert source == "${PYTHON}" or source in stages
        stages.add(stage)


def test_images_run_without_root_and_take_their_start_from_the_project() -> None:
    for target in ("cpu", "gpu"):
        own = (
            (FOLDER / "Dockerfile")
            .read_text(encoding="utf-8")
            .partition(f"FROM base AS {target}\n")[2]
            .partition("\nFROM ")[0]
        )
        assert re.findall(r"^USER (.*)$", own, re.MULTILINE) == ["1000:1000"]
        assert 'ENTRYPOINT ["python", "/opt/erpd/docker/start.py"]' in own


def test_packages_are_installed_with_the_constraints_and_extras_that_there_are() -> None:
    installs = [
        part
        for _, rest in instructions("RUN")
        for part in rest.split("&&")
        if "pip install" in part
    ]
    assert len(installs) == 5
    assert [
        part for part in installs if "-c constraints.txt" not in part and "--no-deps" not in part
    ] == []
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    arguments = [rest.replace('"', "").split("=", 1) for _, rest in instructions("ARG")]
    assert {value for name, value in arguments if name == "TORCH"} <= set(pins)
    asked = {extra for name, value in arguments if name == "EXTRAS" for extra in value.split()}
    assert asked <= set(PROJECT["optional-dependencies"])


def test_code_from_elsewhere_is_never_trusted() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in FOLDER.iterdir() if path.is_file())
    assert not re.search(
        r"trust.remote|TRUST_REMOTE|ALLOW_PICKLE|INSECURE_SERIALIZATION|pickle", text
    )


# -------------------------------------------------------------------------------------- deployments


def test_deployments_are_the_deployed_flows() -> None:
    tree = ast.parse((ROOT / "deployments" / "deployed_flows.py").read_text(encoding="utf-8"))
    names = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    names |= {
        node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert list(DEPLOYMENTS) == [
        "campaign",
        "iteration",
        "online",
        "ablation",
        "evaluation",
        "report",
    ]
    assert set(DEPLOYMENTS) <= names
    assert [deployment["entrypoint"] for deployment in DEPLOYMENTS.values()] == [
        f"deployments/deployed_flows.py:{name}" for name in DEPLOYMENTS
    ]


def test_deployments_are_those_that_up_serves_and_their_parameters_are_valid() -> None:
    from deployments.deployed_flows import DEPLOYED

    assert list(DEPLOYED) == list(DEPLOYMENTS)
    for name, deployment in DEPLOYMENTS.items():
        served = DEPLOYED[name]
        assert (tuple(deployment["tags"]), deployment.get("parameters", {})) == (
            served.tags,
            served.parameters,
        )
        assert served.flow.description
        for parameters in [
            deployment.get("parameters"),
            *(schedule["parameters"] for schedule in deployment.get("schedules", ())),
        ]:
            if parameters is not None:
                served.flow.validate_parameters(parameters)


def test_deployments_run_one_at_a_time_in_the_pool_that_the_worker_takes_from() -> None:
    for deployment in DEPLOYMENTS.values():
        assert deployment["work_pool"] == {"name": "gpu"} and deployment["concurrency_limit"] == {
            "limit": 1,
            "collision_strategy": "ENQUEUE",
        }
    for script in ("deploy.sh", "prefect-worker.sh"):
        assert re.search(r"pool[= ]gpu\b", (FOLDER / script).read_text(encoding="utf-8"))


def test_the_only_schedule_is_a_nightly_iteration_that_is_off() -> None:
    ((name, schedule),) = [
        (name, schedule)
        for name, deployment in DEPLOYMENTS.items()
        for schedule in deployment.get("schedules", ())
    ]
    assert (
        name == "iteration"
        and schedule["active"] is False
        and schedule["slug"] == "nightly"
        and schedule["cron"]
    )
