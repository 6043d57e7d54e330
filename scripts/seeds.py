"""Runs a recipe with several seeds and writes the results as JSON Lines and a Markdown table.

    python -m scripts.seeds tiny --seeds 5 --out docs/results

Each seed is a separate campaign in ERPD_HOME. Rerun the same command to resume.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    args = parser.parse_args()
    results = [run(args.recipe, seed, args.overrides) for seed in range(args.seeds)]
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"{args.recipe}.jsonl").write_text(
        "".join(json.dumps(portable(result)) + "\n" for result in results)
    )
    command = " ".join(
        [
            "python -m scripts.seeds",
            args.recipe,
            f"--seeds {args.seeds}",
            *(f"--set {override}" for override in args.overrides),
        ]
    )
    text = (
        f"# `{args.recipe}` over {args.seeds} seeds\n\nMade by "
        f"`{command}`.\n\n{table(results)}\n\n{conclusions(results)}\n"
    )
    (args.out / f"{args.recipe}.md").write_text(text)
    print(text)


def run(recipe: str, seed: int, overrides: list[str]) -> dict[str, Any]:
    """Run a campaign. Returns the JSON object of `erpd run --json` and its seed."""
    settings = [part for setting in [f"seed={seed}", *overrides] for part in ("--set", setting)]
    done = subprocess.run(
        [sys.executable, "-m", "deployments.cli", "run", recipe, "--json", *settings],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return {"seed": seed, **json.loads(done.stdout)}


def portable(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result without the values that depend on the machine."""
    return {key: value for key, value in result.items() if key not in ("mlflow_url", "report")}


def table(results: list[dict[str, Any]]) -> str:
    rows = [
        "| seed | iteration | strategy | policy | score (95 %) | KL to old | KL to base | entropy "
        "| length |",
        "|" + "---|" * 9,
    ]
    for result in results:
        rows.append(row(result["seed"], 0, "", "base", result["base"]))
        for iteration in result["iterations"]:
            index, strategy = iteration["index"], iteration["strategy"]
            rows += [
                row(result["seed"], index, strategy, role, iteration[role])
                for role in ("teacher", "student")
            ]
    return "\n".join(rows)


def row(seed: int, iteration: int, strategy: str, role: str, report: dict[str, Any]) -> str:
    score = first(report)
    low, high = score["ci95"]
    cells = [
        seed,
        iteration,
        strategy,
        role,
        f"{100 * score['avg']:.1f} ({100 * low:.1f} to {100 * high:.1f})",
    ]
    cells += [f"{report[key]:.4f}" for key in ("kl_old", "kl_base")] + [
        f"{report['entropy']:.3f}",
        f"{report['length']:.2f}",
    ]
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def first(report: dict[str, Any]) -> dict[str, Any]:
    """Return the score of the first benchmark."""
    return next(iter(report["scores"].values()))


def conclusions(results: list[dict[str, Any]]) -> str:
    """Summarize, over seeds, the last student's gain and each strategy's students and teachers."""
    gains = [
        100 * (first(result["iterations"][-1]["student"])["avg"] - first(result["base"])["avg"])
        for result in results
    ]
    lines = [f"- Last student minus base, points: {spread(gains)}."]
    for strategy in ("S1", "S2", "S3"):
        chosen = [
            iteration
            for result in results
            for iteration in result["iterations"]
            if iteration["strategy"] == strategy
        ]
        if chosen:
            difference = [
                100 * (first(iteration["student"])["avg"] - first(iteration["teacher"])["avg"])
                for iteration in chosen
            ]
            ratio = [
                iteration["student"]["kl_old"] / iteration["teacher"]["kl_old"]
                for iteration in chosen
            ]
            lines.append(
                f"- {strategy} ({len(chosen)} iterations): student minus teacher, points: "
                f"{spread(difference)}."
            )
            lines.append(
                f"- {strategy}: student's KL to old over its teacher's: {spread(ratio, 2)}."
            )
            kept = sum(
                far >= -5 and share <= 0.5 for far, share in zip(difference, ratio, strict=True)
            )
            within = "within 5 points of their teacher, or above it, at no more than half its KL"
            lines.append(f"- {strategy}: {kept} of {len(chosen)} students {within}.")
    return "\n".join(lines)


def spread(values: list[float], digits: int = 1) -> str:
    """Return mean, minimum and maximum as text."""
    middle = statistics.fmean(values)
    return (
        f"mean {middle:.{digits}f}, smallest {min(values):.{digits}f}, largest "
        f"{max(values):.{digits}f}"
    )


if __name__ == "__main__":
    main()
