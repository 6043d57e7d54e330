"""MLflow: how runs are shown. The only mlflow import of the project, and the only place that knows
a metric's name.

A campaign is a parent run, each of its phases a child run. Everything here may be said again: a
resumed run finds its runs by tag, and a point, a parameter or a model version that is there already
is not written twice. The truth is the registry; this is a view of it.

| metric | on | step | what |
|---|---|---|---|
| `train/<name>` | phase run | optimizer step | a record of the training loop: `train/loss`, `train/grad_norm`, `train/entropy`, ... |
| `<group>/<name>` | phase run | optimizer step | a record key that has a group already is kept: `rollout/accuracy` |
| `score/<benchmark>`, `score_low/<benchmark>`, `score_high/<benchmark>` | both | see below | AVG@K and its 95 % interval |
| `kl/old`, `kl/base` | both | see below | k1 on fresh samples of the policy, nats per token |
| `entropy`, `length` | both | see below | nats per token, response tokens per sample, on fresh samples |
| `eval/<benchmark>/<name>` | both | see below | `pass_at_k`, `majority`, `truncated`, `unanswered`, `length`, `entropy` of that benchmark |
| `teacher/score/<benchmark>`, `teacher/kl/old`, ... | campaign run | iteration | the same of another policy than the student |

A report on a campaign run has the iteration as its step (0: the base); on a phase run, the
optimizer step of the policy. Names never hold the loss or the strategy, so that runs of different
losses lie in one chart; those are params and tags. NaN stays NaN; an infinity is logged as NaN too,
since MLflow would store it as 1.8e308 and no chart could be read any more.
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

from erpd_core.evaluation_details import BenchmarkDetails
from erpd_core.refs import EvalReport
from tasks.host.disk_faults import describe_disk_fault
from tasks.host.sqlite import set_aside_if_damaged

BATCH = 1000
"""Metrics MLflow takes in one call."""
PARAMS = 100
"""Params MLflow takes in one call."""
PARAM_LENGTH = 6000
"""Characters of a param's value; what is longer is cut."""
STATUS = {"running": "RUNNING", "completed": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
"""The registry's word -> MLflow's."""
TRAINING = "workflowType=machine_learning"
"""In an address: the view with the run table. Who has never been there gets the one of
language-model traces.
"""


def is_away(error: Exception) -> bool:
    """Is it a server that cannot be reached, or a database that another holds: something that
    passes?
    """
    import sqlalchemy.exc

    if describe_disk_fault(error):  # a full disk, say: waiting mends nothing
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
    """A run: its identity in MLflow, and the campaign it belongs to. Small and picklable: a
    worker gets it with the tracking URI.
    """

    id: str
    campaign: str


@cache
def _mlflow() -> Any:
    """The mlflow module, imported when first needed (it takes seconds), its telemetry off; and
    it leaves stdout to `--json`.
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
    """`text` as MLflow allows names of metrics and params: other characters become `_`."""
    return re.sub(r"[^\w\-. :/]", "_", text)[:250]


def record_metrics(record: Mapping[str, float | int]) -> dict[str, float]:
    """A record of the training loop, under metric names; its keys `step` and `time` are no
    metrics.
    """
    values = {key: float(value) for key, value in record.items() if key not in ("step", "time")}
    return {name_of(key if "/" in key else f"train/{key}"): value for key, value in values.items()}


def report_metrics(report: EvalReport, role: str | None = None) -> dict[str, float]:
    """A report under metric names; the student's (and the base's) have no role before them."""
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
    """More measures of each benchmark under metric names; majority@K only where there are
    answers to vote for.
    """
    values: dict[str, float] = {}
    for benchmark, one in details.items():
        own = {
            "pass_at_k": one.pass_at_k[max(one.pass_at_k)],
            "truncated": one.truncated,
            "unanswered": one.unanswered,
        }
        own |= {"length": one.length, "entropy": one.entropy} | (
            {} if one.majority is None else {"majority": one.majority}
        )
        values |= {f"eval/{benchmark}/{name}": value for name, value in own.items()}
    return _of_role(values, role)


def _of_role(values: Mapping[str, float], role: str | None) -> dict[str, float]:
    prefix = "" if role in (None, "student", "base", "online") else f"{role}/"
    return {name_of(prefix + name): float(value) for name, value in values.items()}


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as MLflow params: `{"teacher": {"loss": {"kind": "sapo"}}}` ->
    `{"teacher.loss.kind": "sapo"}`; lists become JSON.
    """
    flat: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name_of(name)] = (
                value if isinstance(value, str) else json.dumps(value, default=str)
            )[:PARAM_LENGTH]
    return flat


class Tracker:
    """An experiment of MLflow, at a database (`sqlite:///...`) or a server (`http://...`).

    Artifacts lie in `artifact_root` (a new experiment's; beside a SQLite database when none is
    given; at a server, its default). Nothing is written elsewhere, and MLflow's global state is
    left alone. A run has one writer at a time.

    Example: `Tracker(f"sqlite:///{home}/mlflow/mlflow.db", home / "mlflow" / "artifacts")`
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
                set_aside_if_damaged(
                    database, "the same commands tell MLflow again what they told it"
                )
            if database and not database.exists():
                _make(database, artifact_root)
            self._client = _mlflow().MlflowClient(
                tracking_uri=tracking_uri, registry_uri=tracking_uri
            )
            self.experiment_id = self._experiment(experiment, artifact_root)

    def _experiment(self, name: str, artifact_root: str | Path | None) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            location = (
                artifact_root.resolve().as_uri()
                if isinstance(artifact_root, Path)
                else artifact_root
            )
            try:
                # Without this kind the experiment opens in the view of language-model traces, which
                # has no run table.
                kind = {"mlflow.experimentKind": "custom_model_development"}
                return str(
                    self._client.create_experiment(name, artifact_location=location, tags=kind)
                )
            except _mlflow().exceptions.MlflowException:
                if (found := self._client.get_experiment_by_name(name)) is None:
                    raise
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    # ----------------------------------------------------------------------------------------- runs

    def campaign_run(
        self,
        campaign_id: str,
        name: str,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> TrackedRun:
        """The run of a campaign: found and reopened, or made. `params` may be nested; those
        there already stay as they are.
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
        """The run of a phase (`phase_key`, such as `1/teacher`, is unique in its campaign), a
        child of the campaign's run.
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
        flat = {key: value for key, value in flatten(params).items() if key not in run.data.params}
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
        """A run ended: `completed`, `failed` or `killed`."""
        self._client.set_terminated(run.id, STATUS[status])

    # -------------------------------------------------------------------------------------- metrics

    def log_records(self, run: TrackedRun, records: Sequence[Mapping[str, float | int]]) -> None:
        """Points of a training loop. Each record has a `step`, and may have a `time` (seconds since
        1970; now, when absent).

        A point (metric, step) is written once, however often it is said, by whichever process: the
        first one counts. MLflow writes a call's points in one transaction and no step is split
        between calls, so a kill leaves whole steps: resume by saying every record again. When the
        server cannot be reached the error is raised and nothing is lost: say the records again
        later.

        **Raises:** KeyError: a record has no step; ValueError: a record has more metrics than one
        call may hold.
        """
        self._log(
            run,
            [
                (int(one["step"]), int(1000 * one.get("time", time.time())), record_metrics(one))
                for one in records
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
        """A report at a step: the iteration on a campaign's run, the policy's optimizer step on
        a phase's. `role` as in the table above.
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
            # the call may have been carried out all the same: ask again next time
            del self._points[run.id]
            raise

    def _logged(self, run: TrackedRun) -> set[tuple[str, int]]:
        names = self._client.get_run(run.id).data.metrics
        return {
            (name, point.step)
            for name in names
            for point in self._client.get_metric_history(run.id, name)
        }

    # ----------------------------------------------------------------------- data, files and models

    def tag(self, run: TrackedRun, tags: Mapping[str, str]) -> None:
        """Say these tags of a run; what a tag said before is replaced."""
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
        """The data a run used, once however often it is said. `context` says what for: training,
        validation, test.
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
        """Attach a file (or a folder with its files); one of the same name is replaced."""
        log = self._client.log_artifacts if Path(path).is_dir() else self._client.log_artifact
        log(run.id, str(path), folder)

    def log_text(self, run: TrackedRun, text: str, name: str) -> None:
        """Attach a text under `name`, such as `decision/1.md`; one of the same name is replaced."""
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
        """A checkpoint as a version of a registered model, by reference: nothing is uploaded. The
        version's number; one per policy.

        `uri` says where the bytes are and becomes a tag, since a server refuses a local path as a
        source. `alias` (`teacher`, `student`, `best`) moves to this version.
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
        if found := self._client.search_model_versions(
            f"name = '{model}' and tags.`erpd.policy` = '{policy_id}'"
        ):
            version = min(found, key=lambda one: int(one.version)).version
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
        """The path of a run's page, to put behind the address of whichever server shows this
        database.
        """
        return f"/#/experiments/{self.experiment_id}/runs/{run.id}"

    @property
    def charts(self) -> str:
        """The path of the page that has the experiment's runs side by side."""
        return f"/#/experiments/{self.experiment_id}/runs?{TRAINING}&compareRunsMode=CHART"


def _batches(steps: Sequence[list[Any]]) -> Iterator[list[Any]]:
    """Whole steps together, as many as one call may hold."""
    batch: list[Any] = []
    for step in steps:
        if batch and len(batch) + len(step) > BATCH:
            yield batch
            batch = []
        batch = batch + step
    if batch:
        yield batch


def _make(database: Path, artifact_root: str | Path | None) -> None:
    """A SQLite database of MLflow, made beside its place and moved there when it is whole; for the
    holder of its lock.

    MLflow's migrations of SQLite are no transaction: with one that a kill cut short, no later start
    gets anywhere.
    """
    being_made = database.with_name(f"{database.name}.new")
    for left in (being_made, Path(f"{being_made}-journal")):
        left.unlink(missing_ok=True)
    _mlflow()  # before any other import of it
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(f"sqlite:///{being_made}", str(artifact_root)).engine.dispose()
    being_made.replace(database)


@contextmanager
def _alone(database: Path | None) -> Iterator[None]:
    """Two processes that make the same SQLite database at once would each break the other's
    migrations.
    """
    if database is None:
        yield
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{database}.lock"):
        yield
