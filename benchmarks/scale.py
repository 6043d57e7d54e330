"""Measures how time and memory grow with tokens, trajectories, columns and registry rows.

    python -m benchmarks.scale --json [--size 0.1] [--rounds 5] [--out docs/results]

The largest case has the size of the paper's batch: 16,000 trajectories of 20,000 tokens with 4
columns (320 million tokens, 1.28 GB per column). It is synthetic, written to a separate store under
ERPD_HOME, read as training reads it, and removed. `--size` is the share of its trajectories.
`ratio` is the speed-up of two workers over one on independent work; `setup` has everything else.
`--out` gets scale.json and scale.png.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import _synthetic
from benchmarks._report import finish, parser
from benchmarks._workers import speed_up
from tasks.host.home import home, prepare
from tasks.registry import Registry
from tasks.store import Store

TRAJECTORIES, LENGTH, COLUMNS = 16_000, 20_000, 4
SHARES = (0.125, 0.25, 0.5, 1.0)
"""Sizes of the curves' points, as shares of the largest case."""
SHORT = 1_000
"""Tokens per trajectory where the number of trajectories varies."""
ROWS = (250, 500, 1000, 2000)
PARTS = ("load", "build", "read")
LEAST = 0.25
"""Seconds below which a part is too short to measure its growth."""


def main() -> None:
    arguments = parser(__doc__, rounds=5)
    arguments.add_argument(
        "--size",
        type=float,
        default=1.0,
        help="share of the 16,000 trajectories (default %(default)s)",
    )
    arguments.add_argument(
        "--out",
        type=Path,
        help="folder for scale.json and scale.png (default: ERPD_HOME/reports/scale)",
    )
    args = arguments.parse_args()
    prepare()
    started = time.perf_counter()
    workers = speed_up(args.rounds)
    _say("workers", workers)
    with tempfile.TemporaryDirectory(dir=home() / "tmp", prefix="scale-") as folder:
        curves = signal_curves(Path(folder), args.size)
        curves["registry rows"] = registry_curve(Path(folder))
    headline = curves["tokens"][-1]
    growth = {name: exponents(points) for name, points in curves.items()}
    _say("growth (1 is linear)", growth)
    setup = {
        "size": args.size,
        "headline": headline,
        "build_rate_over_disk_rate": round(headline["build_rate"] / headline["disk_rate"], 3),
        "peak_gb": round(headline["peak"] / 1e9, 3),
        "growth": growth,
        "workers": workers,
        "curves": curves,
        "seconds": round(time.perf_counter() - started, 1),
    }
    out = args.out or home() / "reports" / "scale"
    out.mkdir(parents=True, exist_ok=True)
    (out / "scale.json").write_text(json.dumps(setup, indent=1) + "\n")
    draw(curves, headline, out / "scale.png")
    one, two = (workers["tokens"] / workers[key] for key in ("one", "two"))
    pair = {"ours": round(two, 1), "peer": round(one, 1), "ratio": workers["ratio"]}
    finish(args.json, "scale", "tokens scored/s", [pair], **setup)


def signal_curves(folder: Path, size: float) -> dict[str, list[dict[str, Any]]]:
    """Return the points of the curves over tokens, trajectories and columns, the largest last."""
    shards = max(len(SHARES), round(size * TRAJECTORIES / _synthetic.SEQUENCES))
    sizes = sorted({max(1, round(share * shards)) for share in SHARES})
    store = Store(folder / "long")
    of, columns = _synthetic.built(store, shards, LENGTH, COLUMNS)
    cases = list(_synthetic.parts(store, of, columns, sizes))
    tokens = [_measured(folder, store, rollouts, ids, "tokens") for rollouts, ids in cases]
    fewer = _measured(folder, store, of.id, [column.id for column in columns[:2]], "columns")
    store = Store(folder / "short")
    of, columns = _synthetic.built(store, shards, SHORT, 2)
    trajectories = [
        _measured(folder, store, rollouts, ids, "trajectories")
        for rollouts, ids in _synthetic.parts(store, of, columns, sizes)
    ]
    return {
        "tokens": tokens,
        "trajectories": trajectories,
        "columns": [fewer, {**tokens[-1], "x": COLUMNS}],
    }


def _measured(
    folder: Path, store: Store, rollouts: str, columns: list[str], curve: str
) -> dict[str, Any]:
    """Return one measurement, made in a separate process."""
    job = folder / "job.json"
    job.write_text(json.dumps({"root": str(store.root), "rollouts": rollouts, "columns": columns}))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks._signal_path", str(job)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    point: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    point["x"] = point[
        {"tokens": "tokens", "trajectories": "sequences", "columns": "columns"}[curve]
    ]
    _say(curve, {key: value for key, value in point.items() if key not in ("x", "tokens_read")})
    return point


def registry_curve(folder: Path) -> list[dict[str, Any]]:
    """Measure the seconds to write artifacts with two inputs each, and to query the last's lineage.

    The numbers of artifacts are those of ROWS.
    """
    points = []
    for rows in ROWS:
        registry = Registry(f"sqlite:///{folder / f'registry-{rows}.db'}")
        began = time.perf_counter()
        registry.record_artifact("policy-0", "policy", {}, {})
        for number in range(1, rows):
            parents = {"init": f"policy-{number - 1}", "first": f"policy-{number // 2}"}
            registry.record_artifact(f"policy-{number}", "policy", {"step": number}, parents)
        written = time.perf_counter() - began
        began = time.perf_counter()
        ancestors = len(registry.lineage(f"policy-{rows - 1}").ids)
        queried = time.perf_counter() - began
        registry.close()
        assert ancestors == rows
        points.append({"x": rows, "seconds": {"write": written, "lineage": queried}})
        _say("registry rows", points[-1])
    return points


def exponents(points: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Return each part's slope of log time against log size: 1 is linear, below 1 is better.

    The slope is that between the smallest and the largest point; None for parts below LEAST.
    """
    first, last = points[0], points[-1]
    slopes: dict[str, float | None] = {}
    for part in last["seconds"]:
        before, after = first["seconds"][part], last["seconds"][part]
        slopes[part] = (
            round(math.log(after / before) / math.log(last["x"] / first["x"]), 3)
            if after >= LEAST
            else None
        )
    if "peak" in last:
        slopes["memory"] = round(
            math.log(last["peak"] / first["peak"]) / math.log(last["x"] / first["x"]), 3
        )
    return slopes


def draw(curves: dict[str, list[dict[str, Any]]], headline: dict[str, Any], path: Path) -> None:
    """Draw seconds against size, with a line for linear growth, and memory and rates.

    The line goes through the origin and the largest point.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.6), layout="constrained")
    panels = figure.subplots(2, 3).flatten()
    for axes, (name, points) in zip(panels, curves.items()):
        sizes = [point["x"] for point in points]
        for part in points[-1]["seconds"]:
            if part != "raw":
                taken = [point["seconds"][part] for point in points]
                axes.plot(sizes, taken, marker="o", markersize=4, label=part)
                axes.plot(
                    sizes,
                    [taken[-1] * size / sizes[-1] for size in sizes],
                    color="0.75",
                    linewidth=0.8,
                    zorder=0,
                )
        axes.set(
            xlabel=name,
            ylabel="seconds",
            title=f"time by {name} (grey: linear)",
            xlim=(0, None),
            ylim=(0, None),
        )
        axes.legend(frameon=False, fontsize=8)
    axes = panels[4]
    for name in ("tokens", "trajectories"):
        points = curves[name]
        share = [point["x"] / points[-1]["x"] for point in points]
        axes.plot(
            share,
            [point["peak"] / 1e9 for point in points],
            marker="o",
            markersize=4,
            label=f"{name}, to {points[-1]['x']:,}",
        )
    axes.axhline(2, color="0.5", linewidth=0.8, linestyle="--")
    axes.set(
        xlabel="share of the largest case",
        ylabel="GB",
        title="peak memory of the process (dashed: 2 GB)",
        xlim=(0, None),
        ylim=(0, None),
    )
    axes.legend(frameon=False, fontsize=8)
    axes = panels[5]
    rates = {"disk, raw": headline["disk_rate"], "build": headline["build_rate"]}
    axes.bar(list(rates), [rate / 1e6 for rate in rates.values()], color=["0.7", "C1"], width=0.6)
    axes.set(ylabel="MB/s", title=f"columns of {headline['tokens'] / 1e6:,.0f} M tokens")
    figure.savefig(path, dpi=110)


def _say(what: str, value: object) -> None:
    print(f"{what}: {value}", flush=True)


if __name__ == "__main__":
    main()
