"""Measures how time and memory grow with tokens, trajectories, columns and registry rows.

    python -m benchmarks.scale --json [--size 0.1] [--minutes 10] [--out docs/results]

The largest case has the size of the paper's batch: 16,000 trajectories of 20,000 tokens with 4
columns (320 million tokens, 1.28 GB per column). It is synthetic, written to a separate store under
ERPD_HOME, read as training reads it, and removed. `--size` is the share of its trajectories. Each
curve begins with a small case and grows to the largest, or as far as there is time for. `ratio` is
the speed-up of two workers over one on independent work; `setup` has everything else. `--out` gets
scale.json and scale.png.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from benchmarks._budget import Deadline, TimeUp, in_shares
from benchmarks._curves import SHARES, Batches, Curves, Point, exponents, growing, registry_point
from benchmarks._pairs import Row, compared
from benchmarks._report import finish, parser, said
from benchmarks._synthetic import SEQUENCES
from benchmarks._workers import WORK, two_and_one
from tasks.host.home import home, prepare

TRAJECTORIES, LENGTH, COLUMNS = 16_000, 20_000, 4
SHORT = 1_000
"""Tokens per trajectory where the number of trajectories varies."""
ROWS = (250, 500, 1000, 2000)
AXES = {
    "trajectories": "sequences",
    "registry rows": "rows",
    "tokens": "tokens",
    "columns": "columns",
}
"""Curves in the order in which they are measured, and the key of each one's sizes."""


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
    rows: dict[str, Row] = {}
    with suppress(TimeUp):
        pairs = two_and_one(args.deadline.share(1 + len(AXES)), args.rounds)
        rows["workers"] = said(compared(pairs))
    with tempfile.TemporaryDirectory(dir=home() / "tmp", prefix="scale-") as folder:
        curves = measured(Path(folder), args.size, args.deadline)
    setup = {
        "size": args.size,
        "growth": {name: exponents(points) for name, points in curves.items()},
        "curves": curves,
        "curves_left_out": [name for name in AXES if name not in curves],
    }
    print(f"growth (1 is linear): {setup['growth']}", flush=True)
    out = args.out or home() / "reports" / "scale"
    out.mkdir(parents=True, exist_ok=True)
    (out / "scale.json").write_text(json.dumps({**setup, **rows}, indent=1) + "\n")
    if "tokens" in curves:
        draw(curves, out / "scale.png")
    finish(args, "scale", "tokens scored/s", rows, work=WORK, **setup)


def measured(folder: Path, size: float, deadline: Deadline) -> Curves:
    """Return the points of each curve that there was time for, the largest last."""
    shards = max(1, round(size * TRAJECTORIES / SEQUENCES))
    sizes = sorted({max(1, round(share * shards)) for share in SHARES})
    many, long = Batches(folder, SHORT, 2, deadline), Batches(folder, LENGTH, COLUMNS, deadline)
    plans: dict[str, tuple[Sequence[int], Callable[[int], Point]]] = {
        "trajectories": (sizes, many.point),
        "registry rows": (ROWS, lambda rows: registry_point(folder, rows)),
        "tokens": (sizes, long.point),
        # all columns first: tokens' largest case has them already
        "columns": ((COLUMNS, COLUMNS // 2), long.with_columns),
    }

    def curve(name: str, share: Deadline) -> list[Point]:
        points = growing(name, *plans[name], share)
        on_axis = [{**point, "x": point[AXES[name]]} for point in points]
        return sorted(on_axis, key=lambda point: point["x"])

    return in_shares(list(AXES), curve, deadline)


def draw(curves: Curves, path: Path) -> None:
    """Draw seconds against size, with a line for linear growth, and memory and rates.

    The line goes through the origin and the largest point. The rates are those of the case with the
    most tokens.
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
    for name in [name for name in ("tokens", "trajectories") if name in curves]:
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
    headline = curves["tokens"][-1]
    rates = {"disk, raw": headline["disk_rate"], "build": headline["build_rate"]}
    axes.bar(list(rates), [rate / 1e6 for rate in rates.values()], color=["0.7", "C1"], width=0.6)
    axes.set(ylabel="MB/s", title=f"columns of {headline['tokens'] / 1e6:,.0f} M tokens")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
