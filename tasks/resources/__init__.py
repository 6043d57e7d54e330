"""What stages ask of the machine; only this package imports ray. One Ray for the whole process, started when the first stage needs it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from erpd_core.config import RuntimeConfig
from tasks.home import home
from tasks.resources.actors import over_actors
from tasks.shares import Share, asked, local_cpus, sampler_share, scorer_share, stage_share, trainer_share
from tasks.stage import Stage

__all__ = [
    "Share",
    "asked",
    "ensure_ray",
    "in_task",
    "over_actors",
    "places",
    "sampler_share",
    "scorer_share",
    "stage_share",
    "start_ahead",
    "stop_ray",
    "submit",
    "task_runner",
    "trainer_share",
]

_lock = threading.Lock()


def places(runtime: RuntimeConfig) -> int:
    """How many stages can be at work at once, at least one."""
    if runtime.ray == "off":
        return 1
    share = stage_share(runtime)
    if not (runtime.ray_address or share.gpus):
        return max(1, local_cpus(runtime) // share.cpus)
    import ray

    ensure_ray(runtime)
    has = ray.cluster_resources()
    counts = [has.get(name, 0) / amount for name, amount in (("CPU", share.cpus), ("GPU", share.gpus)) if amount]
    return max(1, int(min(counts)))


def ensure_ray(runtime: RuntimeConfig) -> None:
    """Connect to the runtime's cluster, or start a local one under ERPD_HOME. Idempotent; a start that fails is tried once more."""
    import ray

    with _lock:
        if ray.is_initialized():
            return
        for attempt in (1, 2):
            try:
                if runtime.ray_address:
                    ray.init(runtime.ray_address, namespace="prefect", log_to_driver=False, configure_logging=False)
                else:
                    ray.init(
                        namespace="prefect",
                        num_cpus=local_cpus(runtime),
                        include_dashboard=False,
                        log_to_driver=False,
                        configure_logging=False,
                        object_store_memory=256 << 20,  # references travel, tensors do not
                        _temp_dir=str(home() / "ray"),
                        _node_ip_address="127.0.0.1",
                    )
                break
            except Exception:  # about one local start in ten times out on a busy machine (ray#65983)
                ray.shutdown()
                if attempt == 2:
                    raise
        _refuse_impossible(ray, runtime)


def _refuse_impossible(ray: Any, runtime: RuntimeConfig) -> None:
    """A task that asks for more than the cluster has would wait for ever: say what is missing instead."""
    has = ray.cluster_resources()
    shares = {"a stage": stage_share(runtime)}
    if runtime.samples_apart:
        shares["a sampler"] = sampler_share(runtime)
    if runtime.scores_apart:
        shares["a scorer"] = scorer_share(runtime)
    if runtime.trains_apart:  # they start together or not at all
        one = trainer_share(runtime)
        shares[f"the {runtime.trainers} trainers together"] = Share(one.cpus * runtime.trainers, one.gpus * runtime.trainers)
    for who, share in shares.items():
        for name, amount in (("CPU", share.cpus), ("GPU", share.gpus)):
            if amount > has.get(name, 0):
                raise ValueError(
                    f"runtime: {who} asks for {amount:g} {name}, the Ray cluster has {has.get(name, 0):g}; lower it or add nodes"
                )


def start_ahead(runtime: RuntimeConfig) -> None:
    """Start Ray before the first stage needs it; of a local one, have a worker for each place import what stages need meanwhile.

    In the caller's thread, which must outlive Ray: Linux ends its processes with the thread that started them.
    """
    if runtime.ray == "off":
        return
    import ray

    ensure_ray(runtime)
    if runtime.ray_address is None:
        work = ray.remote(_import_for_stages).options(**stage_share(runtime).options)
        for _ in range(places(runtime)):
            work.remote()


def _import_for_stages() -> None:
    import tasks.engines.hf
    import tasks.train
    import tasks.verbs  # noqa: F401


def stop_ray() -> None:
    """Stop the local Ray of this process, or leave the cluster."""
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


def task_runner(runtime: RuntimeConfig) -> TaskRunner[Any]:
    """Threads, or Ray."""
    if runtime.ray == "off":
        return ThreadPoolTaskRunner(max_workers=1)
    return _lazy_ray_runner(runtime)


def submit(task: Any, runtime: RuntimeConfig, stage: Stage[Any], *args: Any) -> Any:
    """Submit a Prefect task on a stage to the current flow's runner with what the stage asks; returns its future."""
    if runtime.ray == "off":
        return task.submit(stage, *args)
    from prefect_ray.context import remote_options

    # Ray would silently replay a task whose worker died while Prefect shows it Running for ever: retries are Prefect's.
    with remote_options(**asked(stage, runtime).options, max_retries=0):
        return task.submit(stage, *args)


def in_task(work: Callable[..., Any], runtime: RuntimeConfig, *args: Any) -> Any:
    """`work(*args)` in a Ray task of its own that asks for a stage's share; its answer, or the error it raised."""
    import ray

    ensure_ray(runtime)
    try:
        return ray.get(ray.remote(work).options(**stage_share(runtime).options, max_retries=0).remote(*args))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None


def _lazy_ray_runner(runtime: RuntimeConfig) -> TaskRunner[Any]:
    from prefect_ray.task_runners import RayTaskRunner

    class LazyRayTaskRunner(RayTaskRunner):
        """A RayTaskRunner that starts Ray at its first task: a campaign whose every stage is cached never does."""

        def __enter__(self) -> Any:
            return TaskRunner.__enter__(self)

        def __exit__(self, *details: Any) -> None:
            TaskRunner.__exit__(self, *details)

        def submit(self, *args: Any, **kwargs: Any) -> Any:
            ensure_ray(runtime)
            return super().submit(*args, **kwargs)

    return LazyRayTaskRunner()
