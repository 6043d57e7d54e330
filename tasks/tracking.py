"""Logging of campaigns to MLflow. The only module that imports mlflow and defines metric names.

A campaign is a parent run; each of its phases is a child run. All calls are idempotent: a resumed
run finds its MLflow runs by tag, and an existing point, parameter or model version is not written
twice. The registry is the source of truth; MLflow displays it.

| metric | on | step | value |
|---|---|---|---|
| `train/<name>` | phase run | optimizer step | a value of the training loop: `train/loss`, `train/grad_norm`, `train/entropy`, ... |
| `<group>/<name>` | phase run | optimizer step | a value whose record key already has a group: `rollout/accuracy` |
| `score/<benchmark>`, `score_low/<benchmark>`, `score_high/<benchmark>` | both | see below | AVG@K and its 95 % interval |
| `kl/old`, `kl/base` | both | see below | k1 on fresh samples of the policy, nats per token |
| `entropy`, `length` | both | see below | nats per token, response tokens per sample, on fresh samples |
| `eval/<benchmark>/<name>` | both | see below | `pass_at_k`, `majority`, `truncated`, `unanswered`, `length`, `entropy` of that benchmark |
| `teacher/score/<benchmark>`, `teacher/kl/old`, ... | campaign run | iteration | the same for a policy other than the student |

The step of a report is the iteration (0: the base) on a campaign run, and the policy's optimizer
step on a phase run. Metric names never contain the loss or the strategy, so that runs with
different losses share a chart; these are params and tags. NaN stays NaN. An infinity is logged as
NaN, because MLflow would store it as 1.8e308, which makes charts unreadable.
"""  # noqa: E501

from __future__ import annotations

import json
import logging
import math
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from erpd_core.config.flat import flatten
from erpd_core.evaluation_details import BenchmarkDetails
from erpd_core.refs import EvalReport
from tasks.host.disk_faults import describe_disk_fault
from tasks.host.sqlite import set_aside_if_damaged

BATCH = 1000
"""Maximum number of metrics in one call of MLflow."""
PARAMS = 100
"""Maximum number of params in one call of MLflow."""
PARAM_LENGTH = 6000
"""Maximum characters of a param's value; the rest is cut off."""
STATUS = {"running": "RUNNING", "completed": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
"""Status in the registry -> status in MLflow."""
TRAINING = "workflowType=machine_learning"
"""Query of a page address that selects the view with the run table.

Without it a new user sees the view of language-model traces.
"""


def is_away(error: Exception) -> bool:
    """Whether an error is temporary: an unreachable server or a locked database."""
    import sqlalchemy.exc

    if describe_disk_fault(error):  # waiting does not help, for example with a full disk
        return False
    if isinstance(error, _mlflow().exceptions.MlflowException):
        return "API request to" in str(error) or error.get_http_status_code() in (
            429,
            502,
            503,
            504,
        )
    return isinstance(error, sqlalchemy.exc.OperationalError | ConnectionError)


@dataclass(frozen=True)
class TrackedRun:
    """A run in MLflow. Small and picklable: sent to a worker together with the tracking URI."""

    id: str
    """MLflow's id of the run."""
    campaign: str
    """Id of the campaign that the run belongs to."""


@cache
def _mlflow() -> Any:
    """The mlflow module, imported on first use because the import takes seconds.

    Its telemetry is off and it prints nothing to stdout, which `--json` needs.
    """
    for name in (
        "MLFLOW_DISABLE_TELEMETRY",
        "DO_NOT_TRACK",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT",
    ):
        os.environ.setdefault(name, "true")
    import mlflow

    logging.getLogger("mlflow.store").setLevel(logging.WARNING)
    return mlflow


def name_of(text: str) -> str:
    """Make `text` a valid name of a metric or param: other characters become `_`."""
    return re.sub(r"[^\w\-. :/]", "_", text)[:250]


def record_metrics(record: Mapping[str, float | int]) -> dict[str, float]:
    """Convert a record of the training loop to metrics, without its keys `step` and `time`."""
    values = {key: float(value) for key, value in record.items() if key not in ("step", "time")}
    return {name_of(key if "/" in key else f"train/{key}"): value for key, value in values.items()}


def report_metrics(report: EvalReport, role: str | None = None) -> dict[str, float]:
    """Convert a report to metrics.

    The role is a prefix of the names, except for the student, the base and the online policy.
    """
    values: dict[str, float] = {
        "kl/old": report.kl_old,
        "kl/base": report.kl_base,
        "entropy": report.entropy,
        "length": report.length,
    }
    for benchmark, score in report.scores.items():
        low, high = score.ci95
        values |= {
            f"score/{benchmark}": score.avg,
            f"score_low/{benchmark}": low,
            f"score_high/{benchmark}": high,
        }
    return _of_role(values, role)


def details_metrics(
    details: Mapping[str, BenchmarkDetails], role: str | None = None
) -> dict[str, float]:
    """Convert the details of each benchmark to metrics, with names as in `report_metrics`.

    `majority` is present only if there are answers to vote on.
    """
    values: dict[str, float] = {}
    for benchmark, measured in details.items():
        own = {
            "pass_at_k": measured.pass_at_k[max(measured.pass_at_k)],
            "truncated": measured.truncated,
            "unanswered": measured.unanswered,
        }
        own |= {"length": measured.length, "entropy": measured.entropy} | (
            {} if measured.majority is None else {"majority": measured.majority}
        )
        values |= {f"eval/{benchmark}/{name}": value for name, value in own.items()}
    return _of_role(values, role)


def _of_role(values: Mapping[str, float], role: str | None) -> dict[str, float]:
    prefix = "" if role in (None, "student", "base", "online") else f"{role}/"
    return {name_of(prefix + name): float(value) for name, value in values.items()}


def params_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Nested settings as MLflow params with dotted keys; lists become JSON.

    **Example:** `params_of({"teacher": {"loss": {"kind": "sapo"}}})` is
    `{"teacher.loss.kind": "sapo"}`.
    """
    return {
        name_of(key): (value if isinstance(value, str) else json.dumps(value, default=str))[
            :PARAM_LENGTH
        ]
        for key, value in flatten(config).items()
    }


class Tracker:
    """An MLflow experiment in a database (`sqlite:///...`) or on a server (`http://...`).

    A new experiment stores its files in `artifact_root`. The default is a folder next to a SQLite
    database, or the server's own default. Nothing is written elsewhere, and MLflow's global state
    does not change. A run must have only one writer at a time.

    **Example:** `Tracker(f"sqlite:///{home}/mlflow/mlflow.db", home / "mlflow" / "artifacts")`
    """

    def __init__(
        self, tracking_uri: str, artifact_root: str | Path | None = None, experiment: str = "erpd"
    ) -> None:
        self.tracking_uri = tracking_uri
        self._points: dict[str, set[tuple[str, int]]] = {}
        database = (
            Path(tracking_uri.removeprefix("sqlite:///"))
            if tracking_uri.startswith("sqlite:///")
            else None
        )
        if database and artifact_root is None:
            artifact_root = database.parent / "artifacts"
        with _alone(database):
            if database:
                set_aside_if_damaged(database, "the same commands log their runs to MLflow again")
            if database and not database.exists():
                _make(database, artifact_root)
            self._client = _mlflow().MlflowClient(
                tracking_uri=tracking_uri, registry_uri=tracking_uri
            )
            self.experiment_id = self._experiment(experiment, artifact_root)

    def _experiment(self, name: str, artifact_root: str | Path | None) -> str:
        """Find, restore or create the experiment; returns its id."""
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            location = (
                artifact_root.resolve().as_uri()
                if isinstance(artifact_root, Path)
                else artifact_root
            )
            try:
                # Without this tag the experiment opens in the view of language-model traces, which
                # has no run table.
                kind = {"mlflow.experimentKind": "custom_model_development"}
                return str(
                    self._client.create_experiment(name, artifact_location=location, tags=kind)
                )
            except _mlflow().exceptions.MlflowException:
                if (experiment := self._client.get_experiment_by_name(name)) is None:
                    raise
        if experiment.lifecycle_stage == "deleted":
            self._client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)

    # ----------------------------------------------------------------------------------------- runs

    def campaign_run(
        self,
        campaign_id: str,
        name: str,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> TrackedRun:
        """Find and reopen the run of a campaign, or create it.

        `params` may be nested. Params that the run already has do not change.
        """
        return self._run(campaign_id, {"erpd.kind": "campaign"}, name, params or {}, tags or {})

    def phase_run(
        self,
        campaign: TrackedRun,
        phase_key: str,
        name: str,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> TrackedRun:
        """Find and reopen the run of a phase, or create it as a child of the campaign's run.

        `phase_key`, such as `1/teacher`, is unique in its campaign.
        """
        found_by = {"erpd.kind": "phase", "erpd.phase": phase_key}
        return self._run(
            campaign.campaign,
            found_by,
            name,
            params or {},
            {"mlflow.parentRunId": campaign.id, **(tags or {})},
        )

    def _run(
        self,
        campaign: str,
        found_by: dict[str, str],
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
    ) -> TrackedRun:
        """Find a run by the tags `found_by` and reopen it, or create it; add params and tags."""
        found_by = {"erpd.campaign": campaign, **found_by}
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in found_by.items())
        if runs := self._client.search_runs(
            [self.experiment_id], wanted, order_by=["attributes.start_time ASC"], max_results=1
        ):
            run = runs[0]
            if run.info.status != "RUNNING":
                self._client.update_run(run.info.run_id, status="RUNNING")
            new_tags = {
                key: value for key, value in tags.items() if run.data.tags.get(key) != value
            }
        else:
            run = self._client.create_run(
                self.experiment_id, tags={**tags, **found_by}, run_name=name
            )
            new_tags = {}
        entities = _mlflow().entities
        flat = {
            key: value for key, value in params_of(params).items() if key not in run.data.params
        }
        missing = [entities.Param(key, value) for key, value in flat.items()]
        labels = [entities.RunTag(key, value) for key, value in new_tags.items()]
        for start in range(0, max(len(missing), len(labels)), PARAMS):
            self._client.log_batch(
                run.info.run_id,
                params=missing[start : start + PARAMS],
                tags=labels[start : start + PARAMS],
            )
        return TrackedRun(id=run.info.run_id, campaign=campaign)

    def finish(self, run: TrackedRun, status: str = "completed") -> None:
        """End a run with a status: `completed`, `failed` or `killed`."""
        self._client.set_terminated(run.id, STATUS[status])

    # -------------------------------------------------------------------------------------- metrics

    def log_records(self, run: TrackedRun, records: Sequence[Mapping[str, float | int]]) -> None:
        """Log records of a training loop.

        Each record has a `step` and may have a `time` (seconds since 1970; default: now). The first
        value of a point (metric, step) counts; later ones are ignored, from whichever process.

        MLflow writes the points of a call in one transaction, and a step is never split between
        calls, so that a kill leaves complete steps: to resume, log every record again. If the
        server cannot be reached, the error is raised and nothing is lost: log the records again
        later.

        **Raises:** KeyError if a record has no step; ValueError if a step has more than 1000
            metrics, the limit of one call.
        """
        self._log(
            run,
            [
                (
                    int(record["step"]),
                    int(1000 * record.get("time", time.time())),
                    record_metrics(record),
                )
                for record in records
            ],
        )

    def log_report(
        self,
        run: TrackedRun,
        report: EvalReport,
        step: int,
        role: str | None = None,
        details: Mapping[str, BenchmarkDetails] | None = None,
    ) -> None:
        """Log an evaluation report.

        **Arguments:**
            step: The iteration on a campaign's run, the policy's optimizer step on a phase's run.
            role: Role of the policy: the prefix of the metric names (see the table above).
            details: More measures by benchmark.
        """
        self._log(
            run,
            [
                (
                    step,
                    int(1000 * time.time()),
                    report_metrics(report, role) | details_metrics(details or {}, role),
                )
            ],
        )

    def _log(self, run: TrackedRun, points: Sequence[tuple[int, int, dict[str, float]]]) -> None:
        """Log those of the points (step, time in milliseconds, metrics) that MLflow lacks."""
        if run.id not in self._points:
            self._points[run.id] = self._logged(run)
        logged = self._points[run.id]
        make = _mlflow().entities.Metric
        new: dict[int, dict[str, Any]] = {}
        for step, stamp, values in points:
            if len(at := new.setdefault(step, {})) + len(values) > BATCH:
                raise ValueError(f"step {step}: more than {BATCH} metrics in one step")
            for name, value in values.items():
                if (name, step) not in logged:
                    at.setdefault(
                        name, make(name, value if math.isfinite(value) else math.nan, stamp, step)
                    )
        try:
            for batch in _batches([list(step.values()) for step in new.values()]):
                self._client.log_batch(run.id, metrics=batch)
                logged |= {(metric.key, metric.step) for metric in batch}
        except BaseException:
            # the call may have succeeded nevertheless: read the logged points again next time
            del self._points[run.id]
            raise

    def _logged(self, run: TrackedRun) -> set[tuple[str, int]]:
        """(metric, step) of every point that MLflow has."""
        names = self._client.get_run(run.id).data.metrics
        return {
            (name, point.step)
            for name in names
            for point in self._client.get_metric_history(run.id, name)
        }

    # ----------------------------------------------------------------------- data, files and models

    def tag(self, run: TrackedRun, tags: Mapping[str, str]) -> None:
        """Set tags of a run, replacing their earlier values."""
        self._client.log_batch(
            run.id, tags=[_mlflow().entities.RunTag(key, value) for key, value in tags.items()]
        )

    def log_dataset(
        self,
        run: TrackedRun,
        name: str,
        digest: str,
        context: str,
        source: Mapping[str, Any],
        count: int,
    ) -> None:
        """Log a data set as an input of a run; a repeated call has no effect.

        **Arguments:**
            name: Name of the data set.
            digest: Its identity; the last 36 characters are stored.
            context: What it is used for: training, validation, test.
            source: Where it comes from, stored as JSON.
            count: Number of problems.
        """
        entities = _mlflow().entities
        dataset = entities.Dataset(
            name=name,
            digest=digest[-36:],
            source_type="erpd",
            source=json.dumps(source)[:PARAM_LENGTH],
            profile=json.dumps({"problems": count}),
        )
        tags = [entities.InputTag("mlflow.data.context", context)]
        self._client.log_inputs(
            run.id, datasets=[entities.DatasetInput(dataset=dataset, tags=tags)]
        )

    def log_artifact(self, run: TrackedRun, path: str | Path, folder: str | None = None) -> None:
        """Attach a file or a folder to a run, replacing one with the same name."""
        log = self._client.log_artifacts if Path(path).is_dir() else self._client.log_artifact
        log(run.id, str(path), folder)

    def log_text(self, run: TrackedRun, text: str, name: str) -> None:
        """Attach a text as the file `name`, such as `decision/1.md`, replacing an earlier one."""
        self._client.log_text(run.id, text, name)

    def register_policy(
        self,
        model: str,
        policy_id: str,
        run: TrackedRun,
        alias: str | None = None,
        uri: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Register a checkpoint as a version of a model, by reference: nothing is uploaded.

        A policy has one version, however often it is registered.

        **Arguments:**
            model: Name of the registered model.
            policy_id: Identity of the policy.
            run: Run that made the checkpoint.
            alias: Alias that moves to this version: `teacher`, `student`, `best`.
            uri: Location of the bytes. Stored as a tag, because a server refuses a local path as a
                source.
            tags: Further tags of the version.
        **Returns:** The version's number.
        """
        try:
            self._client.create_registered_model(model)
        except _mlflow().exceptions.MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        labels = {
            "erpd.policy": policy_id,
            "erpd.campaign": run.campaign,
            **({"erpd.uri": uri} if uri else {}),
            **(tags or {}),
        }
        if versions := self._client.search_model_versions(
            f"name = '{model}' and tags.`erpd.policy` = '{policy_id}'"
        ):
            version = min(versions, key=lambda version: int(version.version)).version
        else:
            source = f"erpd:///{policy_id}"
            version = self._client.create_model_version(
                model, source, run.id, labels, await_creation_for=0
            ).version
        if alias:
            self._client.set_registered_model_alias(model, alias, version)
        return str(version)

    # ---------------------------------------------------------------------------------------- links

    def page(self, run: TrackedRun) -> str:
        """Path of a run's page, to append to the address of any server that shows this database."""
        return f"/#/experiments/{self.experiment_id}/runs/{run.id}"

    @property
    def charts(self) -> str:
        """Path of the page that compares the experiment's runs in charts."""
        return f"/#/experiments/{self.experiment_id}/runs?{TRAINING}&compareRunsMode=CHART"


def _batches(steps: Sequence[list[Any]]) -> Iterator[list[Any]]:
    """Group whole steps into batches of at most `BATCH` metrics, the limit of one call."""
    batch: list[Any] = []
    for step in steps:
        if batch and len(batch) + len(step) > BATCH:
            yield batch
            batch = []
        batch = batch + step
    if batch:
        yield batch


def _make(database: Path, artifact_root: str | Path | None) -> None:
    """Create a SQLite database of MLflow next to its final path, then rename it.

    The caller holds its lock. MLflow does not migrate SQLite in a transaction: with a database left
    by a killed migration, every later start would fail.
    """
    being_made = database.with_name(f"{database.name}.new")
    for leftover in (being_made, Path(f"{being_made}-journal")):
        leftover.unlink(missing_ok=True)
    _mlflow()  # sets the environment before any other import of mlflow
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(f"sqlite:///{being_made}", str(artifact_root)).engine.dispose()
    being_made.replace(database)


@contextmanager
def _alone(database: Path | None) -> Iterator[None]:
    """Context manager that locks a SQLite database while it is created; None: no lock.

    Two processes that create the same database at the same time would break each other's
    migrations.
    """
    if database is None:
        yield
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{database}.lock"):
        yield
