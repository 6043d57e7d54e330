"""The services of docker/compose.yaml together: databases, servers, nodes and a campaign.

`cluster_lab` starts them.
"""

from __future__ import annotations

import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import compose
import pytest
import sqlalchemy as sa
from cluster_lab import NODES, SERVICES, Cluster, copy_code, database_server, fetch
from helpers import SHRUNK, no_process_left, processes_of, python, sets, wait_until

from deployments.servers.local_platform import free_port

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.ray, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """PostgreSQL with its databases, and the two servers that use it."""
    names = compose.variables(compose.written(), "?")
    given = {name: secrets.token_hex(24) for name in names} | {"RAY_WORKER_CPUS": "1"}
    folder = Path(tempfile.mkdtemp(prefix="e-", dir="/tmp"))
    folder.chmod(0o755)  # PostgreSQL's user must reach its folder
    (folder / "mlflow").mkdir()
    copy_code(folder / "code")
    try:
        with database_server(folder / "postgres", given["POSTGRES_PASSWORD"]) as port:
            cluster = Cluster(
                folder,
                folder / "code",
                given,
                {name: free_port() for name in (*SERVICES, "health")} | {"postgres": port},
            )
            cluster.run("databases")
            cluster.start("prefect-server")
            cluster.start("mlflow")
            cluster.wait("prefect-server", "mlflow")
            yield cluster
            for name in reversed(list(cluster.started)):
                cluster.stop(name)
    finally:
        left = {
            name: no_process_left(folder / name, 5.0) for name in (*SERVICES, "databases", "erpd")
        }
        for process in [process for name in left for process in processes_of(folder / name)]:
            process.kill()
        shutil.rmtree(folder, ignore_errors=True)
    assert {name: processes for name, processes in left.items() if processes} == {}


@pytest.fixture(scope="module")
def nodes(cluster: Cluster) -> Cluster:
    """The Ray head, two Ray workers, and Prefect's worker, which is a node without CPUs."""
    for name in NODES:
        cluster.start(name)
        # Of Ray nodes started together on one machine, some do not come up.
        cluster.wait(name)
    return cluster


# ---------------------------------------------------------------------------------------- databases


@pytest.mark.parametrize(
    ("role", "variable", "own"),
    [
        ("erpd", "ERPD_DB_PASSWORD", {"erpd"}),
        ("prefect", "PREFECT_DB_PASSWORD", {"prefect"}),
        ("mlflow", "MLFLOW_DB_PASSWORD", {"mlflow", "mlflow_auth"}),
    ],
)
def test_a_role_gets_into_its_own_databases_with_its_password_only(
    cluster: Cluster, role: str, variable: str, own: set[str]
) -> None:
    for database in ("erpd", "prefect", "mlflow", "mlflow_auth"):
        if database in own:
            assert cluster.sql(role, cluster.given[variable], database, "SELECT current_user") == [
                (role,)
            ]
        else:
            with pytest.raises(sa.exc.OperationalError, match="permission denied for database"):
                cluster.sql(role, cluster.given[variable], database, "SELECT 1")
    with pytest.raises(sa.exc.OperationalError, match="password authentication failed"):
        cluster.sql(role, "guess", min(own), "SELECT 1")


def test_databases_are_made_once_and_a_changed_password_arrives(cluster: Cluster) -> None:
    before, awkward = cluster.given["ERPD_DB_PASSWORD"], 'it\'s "quoted" \\ %s :x $y'
    cluster.given["ERPD_DB_PASSWORD"] = awkward
    try:
        cluster.run("databases")
        assert cluster.sql("erpd", awkward, "erpd", "SELECT 1") == [(1,)]
        with pytest.raises(sa.exc.OperationalError, match="password authentication failed"):
            cluster.sql("erpd", before, "erpd", "SELECT 1")
    finally:
        cluster.given["ERPD_DB_PASSWORD"] = before
        cluster.run("databases")


def test_the_registry_is_brought_up_to_date_on_it(cluster: Cluster) -> None:
    """Uses the URL and the password that the compose file gives to Prefect's worker."""
    variables = cluster.environment("prefect-worker")
    script = """
from tasks.registry import open_registry
registry = open_registry()
registry.campaign_started("one-0123456789", "one", "tiny", {"seed": 1})
print([(one.id, one.status) for one in registry.campaigns()])
"""
    done = python(
        script,
        home=cluster.folder / "erpd",
        **{name: variables[name] for name in ("ERPD_REGISTRY_URL", "PGPASSWORD")},
    )
    assert done.returncode == 0, done.stderr
    assert "('one-0123456789', 'running')" in done.stdout
    assert cluster.sql(
        "erpd", cluster.given["ERPD_DB_PASSWORD"], "erpd", "SELECT count(*) FROM alembic_version"
    ) == [(1,)]


# ------------------------------------------------------------------------------------------ servers


def test_prefect_answers_who_has_the_password_and_nobody_else(cluster: Cluster) -> None:
    api = cluster.url("prefect-server") + "/api"
    right = f"admin:{cluster.given['PREFECT_PASSWORD']}"
    assert fetch(f"{api}/health") == (200, True)
    assert [fetch(f"{api}/flows/count", user, {})[0] for user in ("", "admin:guess", right)] == [
        401,
        401,
        200,
    ]
    assert fetch(f"{api}/admin/version")[0] == 401
    assert cluster.sql(
        "prefect",
        cluster.given["PREFECT_DB_PASSWORD"],
        "prefect",
        "SELECT count(*) FROM alembic_version",
    ) == [(1,)]
    page = fetch(cluster.url("prefect-server") + "/", Accept="text/html")
    assert page[0] == 200 and "<html" in page[1] and (cluster.folder / "erpd" / "ui").is_dir()


def test_mlflow_answers_who_has_the_password_and_nobody_else(cluster: Cluster) -> None:
    url = cluster.url("mlflow")
    search = f"{url}/api/2.0/mlflow/experiments/search?max_results=5"
    right = f"admin:{cluster.given['MLFLOW_PASSWORD']}"
    assert fetch(f"{url}/health")[0] == 200
    assert [
        fetch(search, user)[0] for user in ("", "admin:guess", "admin:password1234", right)
    ] == [401, 401, 401, 200]
    assert [
        fetch(search, right, Host=host)[0]
        for host in ("mlflow:5000", "localhost:5000", "elsewhere.example")
    ] == [200, 200, 403]


def test_a_metric_and_a_file_said_to_mlflow_are_read_back(cluster: Cluster) -> None:
    variables = {
        name: value
        for name, value in cluster.environment("prefect-worker").items()
        if name.startswith("MLFLOW_TRACKING_")
    }
    script = """
import sys
from tasks.tracking import Tracker
tracker = Tracker(sys.argv[1])
run = tracker.campaign_run("one-0123456789", "one", {"seed": 1})
tracker.log_records(run, [{"step": 3, "loss": 0.25}])
tracker.log_text(run, "hello", "said.txt")
print(run.id)
"""
    done = python(script, cluster.url("mlflow"), home=cluster.folder / "erpd", **variables)
    assert done.returncode == 0, done.stderr
    run, user = done.stdout.split()[-1], f"admin:{cluster.given['MLFLOW_PASSWORD']}"
    api = cluster.url("mlflow") + "/api/2.0/mlflow"
    status, history = fetch(f"{api}/metrics/get-history?run_id={run}&metric_key=train/loss", user)
    assert status == 200 and [(point["step"], point["value"]) for point in history["metrics"]] == [
        (3, 0.25)
    ]
    assert fetch(f"{api}/runs/get?run_id={run}")[0] == 401
    (written,) = (cluster.folder / "mlflow").rglob("said.txt")
    assert written.read_text() == "hello"


# -------------------------------------------------------------------------------------------- nodes


def test_ray_takes_those_who_have_its_token_and_nobody_else(nodes: Cluster) -> None:
    script = """
import sys
from tasks.host.home import prepare
prepare()
from erpd_core.config import RuntimeConfig
from tasks.execution.ray_cluster import cluster_nodes
print(sorted(node.cpus for node in cluster_nodes(RuntimeConfig(ray_address=sys.argv[1], cpus=1))))
"""
    right = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": nodes.given["RAY_AUTH_TOKEN"]}
    wrong = [right | {"RAY_AUTH_TOKEN": "guess"}, {"RAY_AUTH_MODE": "disabled"}]

    def join(variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return python(
            script,
            nodes.address("ray-head"),
            home=nodes.folder / "erpd",
            RAY_TMPDIR=str(nodes.folder),
            **variables,
        )

    with ThreadPoolExecutor(3) as pool:
        let_in, *refused = pool.map(join, [right, *wrong])
    assert let_in.stdout == "[0, 0, 1.0, 1.0]\n", let_in.stderr
    for done in refused:
        assert (
            done.returncode != 0
            and "cannot join the Ray cluster" in done.stderr
            and not done.stdout
        ), done.stderr


def test_what_the_cluster_has_no_room_for_is_refused_before_anything_starts(nodes: Cluster) -> None:
    """Two nodes with one CPU each, and two with none: two CPUs, but not for a single stage."""
    variables = nodes.environment("prefect-worker")
    script = """
import sys
from tasks.host.home import prepare
prepare()
from flows.steps.preflight import prepare_campaign
from flows.recipes.load import load_recipe
for change in sys.argv[1:]:
    try:
        prepare_campaign(load_recipe("tiny", ["runtime.cpus=1", *change.split()]))
        print("fits")
    except ValueError as error:
        print(error)
"""
    cases = {
        "runtime.trainers=2": "fits",
        "runtime.cpus=2": "runtime.cpus: sampling asks for 2 CPU on one node",
        "runtime.trainers=4": "runtime.trainers: 4 trainers, which start together, ask for 1 CPU "
        "each: "
        "there is "
        "room for 2",
        "runtime.samplers=2 runtime.sampler_cpus=3": "runtime.sampler_cpus: a sampler asks for 3 "
        "CPU on "
        "one node",
    }
    available = (
        f"and the Ray cluster at {nodes.address('ray-head')} has 2 nodes of 1 CPU 0 GPU and 2 "
        f"nodes of 0 CPU 0 GPU; "
    )
    command = [
        sys.executable,
        "-m",
        "deployments.cli",
        "run",
        "tiny",
        "--json",
        *sets(["runtime.cpus=1", "runtime.gpus=8"]),
    ]
    with ThreadPoolExecutor(2) as pool:
        checked = pool.submit(python, script, *cases, home=nodes.folder / "erpd", **variables)
        ran = subprocess.run(
            command, cwd=nodes.code, env=variables, capture_output=True, text=True, timeout=300
        )
    for line, expected in zip(checked.result().stdout.splitlines(), cases.values(), strict=True):
        assert line.startswith(expected) and (line == "fits" or available in line)
    assert (ran.returncode, ran.stdout) == (2, ""), ran.stderr
    message = (
        f"runtime.gpus: sampling asks for 1 CPU and 8 GPU on one node, {available}lower "
        f"runtime.gpus, or add nodes"
    )
    assert ran.stderr.splitlines()[-1] == f"erpd: {message}" and "Traceback" not in ran.stderr
    tiny = "SELECT count(*) FROM campaigns WHERE name = 'tiny'"
    assert nodes.sql("erpd", nodes.given["ERPD_DB_PASSWORD"], "erpd", tiny) == [(0,)]


def test_flows_are_deployed_once_for_a_version_of_the_code(nodes: Cluster) -> None:
    pool = nodes.prefect("/work_pools/gpu")
    assert (pool["type"], pool["concurrency_limit"]) == ("process", 1)
    deployed = {flow["name"]: flow for flow in nodes.prefect("/deployments/filter", {})}
    assert set(deployed) == {"campaign", "iteration", "online", "ablation", "evaluation", "report"}
    for flow in deployed.values():
        assert flow["work_pool_name"] == "gpu" and flow["description"] and flow["tags"][0] == "erpd"
        assert (
            flow["global_concurrency_limit"]["limit"] == 1
            and flow["concurrency_options"]["collision_strategy"] == "ENQUEUE"
        )
        assert flow["pull_steps"] == [
            {"prefect.deployments.steps.set_working_directory": {"directory": str(nodes.code)}}
        ]
    (nightly,) = deployed["iteration"]["schedules"]
    assert (
        nightly["active"] is False
        and nightly["slug"] == "nightly"
        and nightly["parameters"]["more"] == 1
    )
    path = f"/deployments/{deployed['iteration']['id']}/schedules/{nightly['id']}"
    nodes.prefect(path, {"active": True}, "PATCH")
    subprocess.run(
        [nodes.code / "docker" / "deploy.sh"],
        env=nodes.environment("prefect-worker"),
        check=True,
        timeout=120,
    )
    (again,) = nodes.prefect(f"/deployments/{deployed['iteration']['id']}")["schedules"]
    nodes.prefect(path, {"active": False}, "PATCH")
    assert again["active"] is True, "a restart switched off what was switched on in the UI"


def test_a_campaign_asked_of_prefect_runs_on_two_nodes_and_is_seen_everywhere(
    nodes: Cluster,
) -> None:
    (deployment,) = nodes.prefect(
        "/deployments/filter", {"deployments": {"name": {"any_": ["campaign"]}}}
    )
    changes = [
        *SHRUNK,
        "runtime.cpus=1",
        "runtime.trainers=2",
        "teacher.steps=24",
        "teacher.keep=[12]",
    ]
    changes += ["decision.mode=fixed", "decision.fixed=[S1]"]
    parameters = {"what": {"kind": "recipe", "recipe": "tiny", "iterations": 1, "changes": changes}}
    run = nodes.prefect(
        f"/deployments/{deployment['id']}/create_flow_run", {"parameters": parameters}
    )

    seen: dict[str, set[str]] = {name: set() for name in NODES}

    def state() -> str:
        for name in seen:
            seen[name] |= nodes.at_work(name)
        return str(nodes.prefect(f"/flow_runs/{run['id']}")["state"]["type"])

    assert wait_until(
        lambda: time.sleep(0.5) or state() in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"), 600
    )
    print(seen)
    assert state() == "COMPLETED", nodes.log("prefect-worker")[-4000:]
    completed = "SELECT id FROM campaigns WHERE status = 'completed'"
    ((campaign,),) = nodes.sql("erpd", nodes.given["ERPD_DB_PASSWORD"], "erpd", completed)
    assert (nodes.folder / "erpd" / "reports" / campaign / "report.html").is_file()
    tracked = (
        f"SELECT count(DISTINCT run_uuid) FROM tags WHERE key = 'erpd.campaign' AND value = "
        f"'{campaign}'"
    )
    ((runs,),) = nodes.sql("mlflow", nodes.given["MLFLOW_DB_PASSWORD"], "mlflow", tracked)
    assert runs > 1
    assert "Worker.train" in seen["ray-worker"] & seen["ray-worker-2"], (
        "two trainers of one gang, on different nodes"
    )
    stages = {"rollouts", "score", "evaluate"}
    assert seen["ray-worker"] & stages and seen["ray-worker-2"] & stages
    assert seen["prefect-worker"] == {"train", "distill"} and not seen["ray-head"], (
        "stages that wait for trainers run on the flow's node"
    )


def test_every_service_ends_when_it_is_told_to(nodes: Cluster) -> None:
    """Stops all services as an engine does, by SIGTERM to their first processes; so it must be the
    last test.
    """
    print("memory, MB:", {name: nodes.megabytes(name) for name in nodes.started})
    assert {name: nodes.stop(name) for name in reversed(list(nodes.started))} == {
        name: [] for name in SERVICES
    }
    print("seconds:", {name: round(seconds, 1) for name, seconds in nodes.seconds.items()})
