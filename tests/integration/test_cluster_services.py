"""The services of docker/compose.yaml as plain processes: their own commands, environments and health checks, on loopback.

What containers add (images, networks, volumes, limits, restarts) is not tested here: that needs an engine.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import compose
import psutil
import pytest
import sqlalchemy as sa
from helpers import ROOT, SHRUNK, environment, no_process_left, processes_of, python, sets, wait_until
from postgres import find_binaries, running

from deployments.platform import free_port

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1200)]
PATIENCE = 300.0
STARTS = 3
NODES = {"ray-head": "127.0.0.2", "ray-worker": "127.0.0.3", "ray-worker-2": "127.0.0.4", "prefect-worker": "127.0.0.5"}
"""Loopback too: four machines, as far as Ray is concerned. `ray start` takes the machine's own address where it is given 127.0.0.1."""
SERVICES = ("prefect-server", "mlflow", "ray-head", "ray-worker", "ray-worker-2", "prefect-worker")
"""Those that stay, in the order in which they are started. `NAME-2` is what `--scale NAME=2` adds."""


@dataclass
class Cluster:
    """The compose file on this machine: each service a process, each name and port one of loopback."""

    folder: Path
    code: Path
    """What an image has at /opt/erpd."""
    given: dict[str, str]
    """What docker/.env would say."""
    ports: dict[str, int]
    started: dict[str, psutil.Popen] = field(default_factory=dict)
    began: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    """Service -> from its start until its health check said yes."""

    def address(self, name: str) -> str:
        """Of a service's Ray node."""
        return f"{NODES.get(name, '127.0.0.1')}:{self.ports.get(name, 0)}"

    def local(self, text: str, name: str) -> str:
        """A word of a command or a value of a variable of a service, with what is a container's replaced by what is here."""
        here = {
            r"@postgres/": f"@127.0.0.1:{self.ports['postgres']}/",
            r"^(http://)(prefect-server|127\.0\.0\.1):4200": rf"\g<1>127.0.0.1:{self.ports['prefect-server']}",
            r"^(http://)(mlflow|127\.0\.0\.1):5000": rf"\g<1>127.0.0.1:{self.ports['mlflow']}",
            r"^(http://127\.0\.0\.1):8080": rf"\g<1>:{self.ports['health']}",
            r"^4200$": str(self.ports["prefect-server"]),
            r"^5000$": str(self.ports["mlflow"]),
            r"^0\.0\.0\.0$": "127.0.0.1",
            r"^(ray-head|127\.0\.0\.1):6379$": self.address("ray-head"),
            r"^127\.0\.0\.1:6380$": self.address(name),
            r"^/opt/erpd": str(self.code),
            r"^/(erpd|mlflow)(?=/|$)": f"{self.folder}/\\1",
            r"^/?(docker/)?(\w[\w-]*\.(sh|py))$": f"{self.code}/docker/\\2",
        }
        for pattern, value in here.items():
            text = re.sub(pattern, value, text)
        return text

    def service(self, name: str) -> dict[str, Any]:
        service: dict[str, Any] = compose.interpolated(compose.written()["services"][name.removesuffix("-2")], self.given)
        return service

    def environment(self, name: str) -> dict[str, str]:
        """What a service's processes see: the image's variables, the file's own, and which ports are this machine's."""
        own = {key: self.local(value, name) for key, value in self.service(name).get("environment", {}).items() if key != "PGHOST"}
        here = {
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
            "PYTHONPATH": str(self.code),
            "OMP_NUM_THREADS": "1",
            "ERPD_CODE": str(self.code),
            "RAY_TMPDIR": str(self.folder),
            "RAY_NODE_IP": self.address(name).partition(":")[0],
            "RAY_worker_niceness": "0",  # here they share two cores with all the other services, and would starve
            "RAY_HEAD_PORT": str(self.ports["ray-head"]),
            "RAY_NODE_PORT": str(free_port() if name == "ray-head" else self.ports.get(name, 0)),
            "PREFECT_WORKER_WEBSERVER_PORT": str(self.ports["health"]),
        }
        database = {"PGHOST": "127.0.0.1", "PGPORT": str(self.ports["postgres"])}
        return environment(self.folder / name, **(here | own | database))

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def start(self, name: str) -> None:
        """Its command, by the image's entry point."""
        words = [self.local(word, name) for word in self.service(name)["command"]]
        command = [sys.executable, str(self.code / "docker" / "start.py"), *words]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.started[name] = psutil.Popen(
                command, cwd=self.code, env=self.environment(name), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.began[name] = time.monotonic()

    def healthy(self, name: str) -> bool:
        _, program, *arguments = self.service(name)["healthcheck"]["test"]
        assert program == "python"
        command = [sys.executable, *(self.local(word, name) for word in arguments)]
        return subprocess.run(command, cwd=self.code, env=self.environment(name), capture_output=True, timeout=60).returncode == 0

    def wait(self, *names: str) -> None:
        """Until their health checks say yes. One that ends is started again, as an engine does: Ray may need it on a busy machine."""
        for name in names:
            starts = 1
            deadline = time.monotonic() + PATIENCE
            while not self.healthy(name):
                assert time.monotonic() < deadline, self.log(name)[-4000:]
                if self.started[name].poll() is not None:
                    assert starts < STARTS, self.log(name)[-4000:]
                    starts += 1
                    self.start(name)
                time.sleep(0.2)
            self.seconds[name] = time.monotonic() - self.began[name]

    def at_work(self, name: str) -> set[str]:
        """What Ray is doing on a node at this moment, by the name of the task, or of the actor's class and method."""
        titles = []
        for process in self.started[name].children(recursive=True):
            with suppress(psutil.Error):  # it has ended meanwhile
                titles += process.cmdline()[:1]
        named = {title.removeprefix("ray::").split()[0] for title in titles if title.startswith("ray::")}
        return {name for name in named if not name.startswith(("IDLE", "DashboardAgent", "RuntimeEnvAgent"))}

    def megabytes(self, name: str) -> int:
        """Memory of its processes that no other process has."""
        family = [self.started[name], *self.started[name].children(recursive=True)]
        return sum(process.memory_full_info().uss for process in family) >> 20

    def stop(self, name: str) -> list[str]:
        """Stop it as an engine does, by SIGTERM to its first process; the processes for which that was not enough, which are killed."""
        process = self.started.pop(name)
        if process.poll() is not None:
            return ["it had ended before"]
        family = [process, *process.children(recursive=True)]
        titles = {one.pid: " ".join(one.cmdline()) for one in family}
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        _, left = psutil.wait_procs(family, timeout=60)
        self.seconds[f"{name} stopped"] = time.monotonic() - began
        for one in left:
            one.kill()
        psutil.wait_procs(left, timeout=10)
        return [titles[one.pid] for one in left]

    def run(self, name: str) -> None:
        """A service that ends."""
        (script,) = self.service(name)["command"]
        subprocess.run([self.local(script, name)], env=self.environment(name), check=True, timeout=60)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def sql(self, role: str, password: str, database: str, statement: str) -> list[tuple[Any, ...]]:
        url = sa.URL.create("postgresql+psycopg", role, password, "127.0.0.1", self.ports["postgres"], database)
        return sql(url, statement)

    def prefect(self, path: str, body: Any = None, method: str | None = None) -> Any:
        status, answer = fetch(self.url("prefect-server") + "/api" + path, f"admin:{self.given['PREFECT_PASSWORD']}", body, method)
        assert status < 300, (path, status, answer)
        return answer


def fetch(url: str, user: str = "", body: Any = None, method: str | None = None, **headers: str) -> tuple[int, Any]:
    """Status, and the answer's JSON (its text, where it is none)."""
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), method=method, headers=headers)
    request.add_header("Content-Type", "application/json")
    if user:
        request.add_header("Authorization", "Basic " + base64.b64encode(user.encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            status, data = response.status, response.read()
    except urllib.error.HTTPError as error:
        status, data = error.code, error.read()
    try:
        return status, json.loads(data)
    except ValueError:
        return status, data.decode(errors="replace")


@contextmanager
def database_server(folder: Path, superuser: str) -> Iterator[int]:
    """A PostgreSQL as its image makes it: `postgres` is the superuser, with the password it is given; its port."""
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    folder.mkdir()
    with running(binaries, folder) as url:
        server = sa.make_url(url)
        sql(server, f"CREATE ROLE postgres SUPERUSER LOGIN PASSWORD '{superuser}'")
        sql(server.set(username="postgres", password=superuser), f"ALTER ROLE {server.username} RENAME TO installer")
        assert server.port is not None
        yield server.port


def sql(url: sa.URL, statement: str) -> list[tuple[Any, ...]]:
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            answer = connection.execute(sa.text(statement))
            return [tuple(row) for row in answer] if answer.returns_rows else []
    finally:
        engine.dispose()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """PostgreSQL with its databases, and the two servers on it."""
    names = compose.variables(compose.written(), "?")
    given = {name: secrets.token_hex(24) for name in names} | {"RAY_WORKER_CPUS": "1"}
    folder = Path(tempfile.mkdtemp(prefix="e-", dir="/tmp"))
    folder.chmod(0o755)  # PostgreSQL's own user goes through it
    (folder / "mlflow").mkdir()
    copy_code(folder / "code")
    try:
        with database_server(folder / "postgres", given["POSTGRES_PASSWORD"]) as port:
            one = Cluster(folder, folder / "code", given, {name: free_port() for name in (*SERVICES, "health")} | {"postgres": port})
            one.run("databases")
            one.start("prefect-server")
            one.start("mlflow")
            one.wait("prefect-server", "mlflow")
            yield one
            for name in reversed(list(one.started)):
                one.stop(name)
    finally:
        left = {name: no_process_left(folder / name, 5.0) for name in (*SERVICES, "databases", "erpd")}
        for process in [process for name in left for process in processes_of(folder / name)]:
            process.kill()
        shutil.rmtree(folder, ignore_errors=True)
    assert {name: processes for name, processes in left.items() if processes} == {}


def copy_code(target: Path) -> None:
    """What goes into an image, and nothing else."""
    lines = (ROOT / "docker" / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    for name in [line[1:] for line in lines if line.startswith("!")]:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__", ".env", "*.env"))
        else:
            target.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, target / name)


@pytest.fixture(scope="module")
def nodes(cluster: Cluster) -> Cluster:
    """The rest: a Ray head, two Ray workers, and what runs flows, which is a node without CPUs."""
    for name in NODES:
        cluster.start(name)
        cluster.wait(name)  # of Ray nodes that start at one time on one machine, some do not come up
    return cluster


# --------------------------------------------------------------------------------------------------------------- databases


@pytest.mark.parametrize(
    ("role", "variable", "own"),
    [
        ("erpd", "ERPD_DB_PASSWORD", {"erpd"}),
        ("prefect", "PREFECT_DB_PASSWORD", {"prefect"}),
        ("mlflow", "MLFLOW_DB_PASSWORD", {"mlflow", "mlflow_auth"}),
    ],
)
def test_a_role_gets_into_its_own_databases_with_its_password_only(cluster: Cluster, role: str, variable: str, own: set[str]) -> None:
    for database in ("erpd", "prefect", "mlflow", "mlflow_auth"):
        if database in own:
            assert cluster.sql(role, cluster.given[variable], database, "SELECT current_user") == [(role,)]
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
    """By the URL and the password that the compose file gives to what runs flows."""
    variables = cluster.environment("prefect-worker")
    script = """
from tasks.registry import open_registry
registry = open_registry()
registry.campaign_started("one-0123456789", "one", "tiny", {"seed": 1})
print([(one.id, one.status) for one in registry.campaigns()])
"""
    done = python(script, home=cluster.folder / "erpd", **{name: variables[name] for name in ("ERPD_REGISTRY_URL", "PGPASSWORD")})
    assert done.returncode == 0, done.stderr
    assert "('one-0123456789', 'running')" in done.stdout
    assert cluster.sql("erpd", cluster.given["ERPD_DB_PASSWORD"], "erpd", "SELECT count(*) FROM alembic_version") == [(1,)]


# ----------------------------------------------------------------------------------------------------------------- servers


def test_prefect_answers_who_has_the_password_and_nobody_else(cluster: Cluster) -> None:
    api = cluster.url("prefect-server") + "/api"
    right = f"admin:{cluster.given['PREFECT_PASSWORD']}"
    assert fetch(f"{api}/health") == (200, True)
    assert [fetch(f"{api}/flows/count", user, {})[0] for user in ("", "admin:guess", right)] == [401, 401, 200]
    assert fetch(f"{api}/admin/version")[0] == 401
    assert cluster.sql("prefect", cluster.given["PREFECT_DB_PASSWORD"], "prefect", "SELECT count(*) FROM alembic_version") == [(1,)]
    page = fetch(cluster.url("prefect-server") + "/", Accept="text/html")
    assert page[0] == 200 and "<html" in page[1] and (cluster.folder / "erpd" / "ui").is_dir()


def test_mlflow_answers_who_has_the_password_and_nobody_else(cluster: Cluster) -> None:
    url = cluster.url("mlflow")
    search = f"{url}/api/2.0/mlflow/experiments/search?max_results=5"
    right = f"admin:{cluster.given['MLFLOW_PASSWORD']}"
    assert fetch(f"{url}/health")[0] == 200
    assert [fetch(search, user)[0] for user in ("", "admin:guess", "admin:password1234", right)] == [401, 401, 401, 200]
    assert [fetch(search, right, Host=host)[0] for host in ("mlflow:5000", "localhost:5000", "elsewhere.example")] == [200, 200, 403]


def test_a_metric_and_a_file_said_to_mlflow_are_read_back(cluster: Cluster) -> None:
    variables = {name: value for name, value in cluster.environment("prefect-worker").items() if name.startswith("MLFLOW_TRACKING_")}
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
    assert status == 200 and [(point["step"], point["value"]) for point in history["metrics"]] == [(3, 0.25)]
    assert fetch(f"{api}/runs/get?run_id={run}")[0] == 401
    (written,) = (cluster.folder / "mlflow").rglob("said.txt")
    assert written.read_text() == "hello"


# ------------------------------------------------------------------------------------------------------------------- nodes


def test_ray_takes_those_who_have_its_token_and_nobody_else(nodes: Cluster) -> None:
    script = """
import sys
from tasks.home import prepare
prepare()
from erpd_core.config import RuntimeConfig
from tasks.resources import cluster_nodes
print(sorted(node.cpus for node in cluster_nodes(RuntimeConfig(ray_address=sys.argv[1], cpus=1))))
"""
    right = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": nodes.given["RAY_AUTH_TOKEN"]}
    wrong = [right | {"RAY_AUTH_TOKEN": "guess"}, {"RAY_AUTH_MODE": "disabled"}]

    def join(variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return python(script, nodes.address("ray-head"), home=nodes.folder / "erpd", RAY_TMPDIR=str(nodes.folder), **variables)

    with ThreadPoolExecutor(3) as pool:
        let_in, *refused = pool.map(join, [right, *wrong])
    assert let_in.stdout == "[0, 0, 1.0, 1.0]\n", let_in.stderr
    for done in refused:
        assert done.returncode != 0 and "cannot join the Ray cluster" in done.stderr and not done.stdout, done.stderr


def test_what_the_cluster_has_no_room_for_is_refused_before_anything_starts(nodes: Cluster) -> None:
    """Two nodes with a CPU each, and two with none: two CPUs in all, but not for one stage."""
    variables = nodes.environment("prefect-worker")
    script = """
import sys
from tasks.home import prepare
prepare()
from flows.inputs import check_inputs
from flows.recipes import load_recipe
for change in sys.argv[1:]:
    try:
        check_inputs(load_recipe("tiny", ["runtime.cpus=1", *change.split()]))
        print("fits")
    except ValueError as error:
        print(error)
"""
    cases = {
        "runtime.trainers=2": "fits",
        "runtime.cpus=2": "runtime.cpus: sampling asks for 2 CPU on one node",
        "runtime.trainers=4": "runtime.trainers: 4 trainers, who start together, ask for 1 CPU each: there is room for 2",
        "runtime.samplers=2 runtime.sampler_cpus=3": "runtime.sampler_cpus: a sampler asks for 3 CPU on one node",
    }
    there = f"and the Ray cluster at {nodes.address('ray-head')} has 2 nodes of 1 CPU 0 GPU and 2 nodes of 0 CPU 0 GPU; "
    command = [sys.executable, "-m", "deployments.cli", "run", "tiny", "--json", *sets(["runtime.cpus=1", "runtime.gpus=8"])]
    with ThreadPoolExecutor(2) as pool:
        checked = pool.submit(python, script, *cases, home=nodes.folder / "erpd", **variables)
        ran = subprocess.run(command, cwd=nodes.code, env=variables, capture_output=True, text=True, timeout=300)
    for line, said in zip(checked.result().stdout.splitlines(), cases.values(), strict=True):
        assert line.startswith(said) and (line == "fits" or there in line)
    assert (ran.returncode, ran.stdout) == (2, ""), ran.stderr
    said = f"runtime.gpus: sampling asks for 1 CPU and 8 GPU on one node, {there}lower runtime.gpus, or add nodes"
    assert ran.stderr.splitlines()[-1] == f"erpd: {said}" and "Traceback" not in ran.stderr
    tiny = "SELECT count(*) FROM campaigns WHERE name = 'tiny'"
    assert nodes.sql("erpd", nodes.given["ERPD_DB_PASSWORD"], "erpd", tiny) == [(0,)]


def test_flows_are_deployed_once_for_a_version_of_the_code(nodes: Cluster) -> None:
    pool = nodes.prefect("/work_pools/gpu")
    assert (pool["type"], pool["concurrency_limit"]) == ("process", 1)
    deployed = {one["name"]: one for one in nodes.prefect("/deployments/filter", {})}
    assert set(deployed) == {"campaign", "iteration", "online", "ablation", "evaluation", "report"}
    for one in deployed.values():
        assert one["work_pool_name"] == "gpu" and one["description"] and one["tags"][0] == "erpd"
        assert one["global_concurrency_limit"]["limit"] == 1 and one["concurrency_options"]["collision_strategy"] == "ENQUEUE"
        assert one["pull_steps"] == [{"prefect.deployments.steps.set_working_directory": {"directory": str(nodes.code)}}]
    (nightly,) = deployed["iteration"]["schedules"]
    assert nightly["active"] is False and nightly["slug"] == "nightly" and nightly["parameters"]["more"] == 1
    path = f"/deployments/{deployed['iteration']['id']}/schedules/{nightly['id']}"
    nodes.prefect(path, {"active": True}, "PATCH")
    subprocess.run([nodes.code / "docker" / "deploy.sh"], env=nodes.environment("prefect-worker"), check=True, timeout=120)
    (again,) = nodes.prefect(f"/deployments/{deployed['iteration']['id']}")["schedules"]
    nodes.prefect(path, {"active": False}, "PATCH")
    assert again["active"] is True, "what was switched on in the UI was switched off by a restart"


def test_a_campaign_asked_of_prefect_runs_on_two_nodes_and_is_seen_everywhere(nodes: Cluster) -> None:
    (deployment,) = nodes.prefect("/deployments/filter", {"deployments": {"name": {"any_": ["campaign"]}}})
    changes = [*SHRUNK, "runtime.cpus=1", "runtime.trainers=2"]
    parameters = {"what": {"kind": "recipe", "recipe": "tiny", "iterations": 1, "changes": changes}}
    run = nodes.prefect(f"/deployments/{deployment['id']}/create_flow_run", {"parameters": parameters})

    seen: dict[str, set[str]] = {name: set() for name in NODES}

    def state() -> str:
        for name in seen:
            seen[name] |= nodes.at_work(name)
        return str(nodes.prefect(f"/flow_runs/{run['id']}")["state"]["type"])

    assert wait_until(lambda: time.sleep(0.5) or state() in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"), 600)
    print(seen)
    assert state() == "COMPLETED", nodes.log("prefect-worker")[-4000:]
    completed = "SELECT id FROM campaigns WHERE status = 'completed'"
    ((known,),) = nodes.sql("erpd", nodes.given["ERPD_DB_PASSWORD"], "erpd", completed)
    assert (nodes.folder / "erpd" / "reports" / known / "report.html").is_file()
    tracked = f"SELECT count(DISTINCT run_uuid) FROM tags WHERE key = 'erpd.campaign' AND value = '{known}'"
    ((runs,),) = nodes.sql("mlflow", nodes.given["MLFLOW_DB_PASSWORD"], "mlflow", tracked)
    assert runs > 1
    assert "Worker.train" in seen["ray-worker"] & seen["ray-worker-2"], "two trainers of one gang, each on a node of its own"
    stages = {"rollouts", "score", "evaluate"}
    assert seen["ray-worker"] & stages and seen["ray-worker-2"] & stages
    assert seen["prefect-worker"] == {"train", "distill"} and not seen["ray-head"], "what waits for trainers is beside the flow"


def test_every_service_ends_when_it_is_told_to(nodes: Cluster) -> None:
    """The last test: it stops them all. As an engine would, by SIGTERM to the first process of each."""
    print("memory, MB:", {name: nodes.megabytes(name) for name in nodes.started})
    assert {name: nodes.stop(name) for name in reversed(list(nodes.started))} == {name: [] for name in SERVICES}
    print("seconds:", {name: round(seconds, 1) for name, seconds in nodes.seconds.items()})
