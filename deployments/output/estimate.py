"""The estimate of `erpd show`: FLOP, time, memory per device and disk space of each phase.

It is printed as YAML comments, so that the output of `erpd show` is still a valid recipe.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from erpd_core.config import CampaignConfig
from erpd_core.estimates import Cost, Machine, costs, planned_work
from erpd_core.estimates.campaign import PHASES
from tasks.estimate import KnownModel, known_model, problem_counts
from tasks.execution.machines import machine

GPU = "H100"
"""Machine assumed for a recipe with device cuda."""


def estimate(config: CampaignConfig, name: str | None) -> str:
    """Return the estimate of one campaign as comment lines.

    **Arguments:**
        name: The machine: a name of the table, `this`, or a YAML file; None for the default.
    **Raises:** ValueError for an unknown machine.
    """
    return _commented(_campaign(config, name))


def study_estimate(arms: Sequence[tuple[str, CampaignConfig]], name: str | None) -> str:
    """Return the estimate of a study: one line per arm, and full details of the longest arm."""
    return _commented(_study(arms, name))


def _study(arms: Sequence[tuple[str, CampaignConfig]], name: str | None) -> Iterator[str]:
    totals: list[tuple[str, CampaignConfig, list[Cost]]] = []
    device = _machine(arms[0][1], name)
    for arm, config in arms:
        arm_costs = _costs(config, device)
        if arm_costs is not None:
            totals.append((arm, config, arm_costs))
    if len(totals) < len(arms):
        yield from _campaign(arms[0][1], name)
        return
    yield (
        "estimate of each arm, alone; stages that arms share are computed once, so the study "
        "costs less than their sum"
    )
    width = max(len(arm) for arm, _, _ in totals)
    yield f"{'arm':<{width}}  {'FLOP':>8}  {'time':>8}  {'memory':>8}  {'disk':>8}"
    for arm, _, arm_costs in totals:
        yield f"{arm:<{width}}  {_total(arm_costs)}"
    longest = max(totals, key=lambda entry: sum(cost.seconds for cost in entry[2]))
    yield ""
    yield f"longest arm, {longest[0]}:"
    yield from _campaign(longest[1], name, device)


def _campaign(
    config: CampaignConfig, name: str | None, device: Machine | None = None
) -> Iterator[str]:
    model = _model(config)
    if model.shape is None:
        yield (
            f"no estimate: {model.source}; set `model: {{kind: directory, path: ...}}` to a "
            f"folder with its config.json"
        )
        return
    device = device or _machine(config, name)
    all_costs = _costs(config, device)
    assert all_costs is not None, "the shape is known"
    unit = "GPU" if device.is_gpu else "process"
    yield (
        f"estimate: {model.name}, {_count(model.shape.parameters)} weights, on "
        f"{_machine_text(all_costs, device)}"
    )
    yield (
        f"{'phase':<10}  {'FLOP':>8}  {'time':>8}  {'memory':>8}  {'disk':>8}  work; number of "
        f"devices; bound by"
    )
    for phase in PHASES:
        phase_costs = [cost for cost in all_costs if cost.task.phase == phase]
        if not phase_costs:
            continue
        yield f"{phase:<10}  {_total(phase_costs)}"
        for _, group in groupby(
            sorted(phase_costs, key=lambda cost: cost.task.what), key=lambda cost: cost.task.what
        ):
            same = list(group)
            yield f"{'':<10}  {_total(same)}  {_work_text(same)}"
    yield f"{'total':<10}  {_total(all_costs)}"
    worst = max(all_costs, key=lambda cost: cost.bytes)
    parts = ", ".join(f"{part} {_bytes(size)}" for part, size in worst.memory.items())
    yield f"memory is the peak of one {unit}: {worst.task.what} ({parts})"
    if worst.bytes > device.memory:
        remedy = (
            "more trainers, recompute, offload or a smaller token_budget"
            if worst.task.kind == "train"
            else "a smaller share for sampling"
        )
        yield (
            f"TOO MUCH: {device.name} has {_bytes(device.memory)} a {unit}; set runtime: {remedy}"
        )
    yield from _assumptions(config, model, device)


def _assumptions(config: CampaignConfig, model: KnownModel, device: Machine) -> Iterator[str]:
    lengths, efficiency = model.lengths, device.efficiency
    yield f"assumed: shape: {model.source}"
    yield (
        f"assumed: {lengths.prompt:g} tokens a prompt, {lengths.response:,.5g} a response "
        f"({lengths.source})"
    )
    yield (
        f"assumed: mean length at most {lengths.within:.0%} of the sampling limit; standard "
        f"deviation {lengths.spread:.0%} of the mean, "
        f"longest response of a shard {lengths.longest:g} times the mean"
    )
    yield f"assumed: machine: {device.source}"
    dtype = config.runtime.dtype
    yield (
        f"assumed: {device.flops(dtype) / 1e12:.4g} TFLOP/s ({dtype}) and "
        f"{device.bandwidth / 1e9:,.4g} GB/s each, "
        f"of which training reaches {efficiency.train:.0%}, scoring {efficiency.score:.0%}, "
        f"memory {efficiency.memory:.0%}"
    )
    counts, unknown = problem_counts(config)
    if unknown:
        yield (
            f"assumed: {', '.join(f'{counts[name]} problems of {name}' for name in unknown)} "
            f"(their sets give no number)"
        )
    if config.decision.mode == "auto":
        yield "assumed: every decision is S1"
    yield (
        "stages run one after the other and none is in the store; loading, grading and "
        "checkpoints are not counted"
    )


def _model(config: CampaignConfig) -> KnownModel:
    return known_model(config.model, config.sampling.max_new_tokens)


def _machine(config: CampaignConfig, name: str | None) -> Machine:
    return machine(
        name or (GPU if config.runtime.device == "cuda" else "this"), _model(config).shape
    )


def _costs(config: CampaignConfig, device: Machine) -> list[Cost] | None:
    model = _model(config)
    if model.shape is None:
        return None
    counts, _ = problem_counts(config)
    return costs(planned_work(config, counts, model.lengths), model.shape, config.runtime, device)


# --------------------------------------------------------------------------------------------- text


def _work_text(same: Sequence[Cost]) -> str:
    """Describe tasks of one kind: amount of work, number of devices, what bounds it."""
    task = same[0].task
    if task.kind == "train":
        amount = f"{sum(cost.task.steps for cost in same)} steps of {task.minibatch:,} responses"
    else:
        amount = f"{sum(cost.task.repeat * cost.task.batch.sequences for cost in same):,} responses"
    return f"{task.what}: {amount}; {same[0].devices}; {same[0].bound}"


def _machine_text(all_costs: Sequence[Cost], device: Machine) -> str:
    most = max(cost.devices for cost in all_costs)
    return f"up to {most} {device.name}" if device.is_gpu else "this machine"


def _total(part: Sequence[Cost]) -> str:
    """Format the columns of a table row. Memory is the maximum, the others are sums."""
    flops, seconds, disk = (
        sum(getattr(cost, name) for cost in part) for name in ("flops", "seconds", "disk")
    )
    return (
        f"{_count(flops):>8}  {_time(seconds):>8}  "
        f"{_bytes(max(cost.bytes for cost in part)):>8}  {_bytes(disk):>8}"
    )


def _count(value: float) -> str:
    for size, unit in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e3:.3g} k"


def _bytes(value: float) -> str:
    return f"{_count(value)}B" if value else "-"


def _time(seconds: float) -> str:
    for size, unit in ((172_800, "d"), (5400, "h"), (90, "min")):
        if seconds >= size:
            return f"{seconds / {'d': 86_400, 'h': 3600, 'min': 60}[unit]:.1f} {unit}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


def _commented(lines: Iterator[str]) -> str:
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)
