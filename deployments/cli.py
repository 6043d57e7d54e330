"""The `erpd` command. Exit codes: 0 done; 2 bad input, one line saying what, where and how to mend it; 1 a failure of the run."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tasks.home import home, prepare

app = typer.Typer(
    help="Extreme Region Policy Distillation: squeeze a fixed batch of rollouts, then distil what it taught under a trust region.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY.PATH=VALUE", help="Change one value of the recipe; may be repeated.")]
Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object on stdout; everything else goes to stderr.")]


class BadInput(Exception):
    """Something the user gave cannot work; the message is the one line they see."""


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except BadInput as error:
        print(f"erpd: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


@contextmanager
def _checking() -> Iterator[None]:
    """What is wrong with the input is said in one line, with exit code 2."""
    try:
        yield
    except (ValueError, LookupError) as error:
        raise BadInput(error.args[0] if error.args else str(error)) from error
    except OSError as error:
        raise BadInput(
            f"{error.filename or 'a file'}: {error.strerror or error}; check that it is there and may be read or written"
        ) from error


@contextmanager
def _only_json(wanted: bool) -> Iterator[Callable[[str], object]]:
    """Yield a printer. With `--json`, everything else that writes to stdout, children too, goes to stderr."""
    if not wanted:
        yield print
        return
    sys.stdout.flush()
    real = os.dup(1)
    os.dup2(2, 1)
    try:
        yield lambda text: os.write(real, (text + "\n").encode())
    finally:
        sys.stdout.flush()
        os.dup2(real, 1)
        os.close(real)


@app.command()
def run(recipe: str, set_: Set = None, as_json: Json = False) -> None:
    """Run a campaign or a study in the foreground, or go on with one that was interrupted. `--set scale=paper` is for studies."""
    from flows.recipes import load_recipe
    from flows.studies import is_study, load_study

    with _checking():
        study = load_study(recipe, set_ or ()) if is_study(recipe) else None
        config = None if study else load_recipe(recipe, set_ or ())
    with _only_json(as_json) as out:
        prepare()
        from deployments.run import run_in_foreground, run_study_in_foreground

        console = Console(stderr=as_json)
        try:
            if study:
                result = run_study_in_foreground(study, console, checking=_checking)
            else:
                assert config is not None
                result = run_in_foreground(config, recipe, console, checking=_checking)
        except BadInput:
            raise
        except KeyboardInterrupt:
            print("erpd: interrupted; the same command goes on from here", file=sys.stderr)
            raise typer.Exit(1) from None
        except Exception as error:
            _explain_failure(error)
            raise typer.Exit(1) from error
        if as_json:
            out(json.dumps(result))


def _explain_failure(error: Exception) -> None:
    import traceback

    log = home() / "logs" / "failure.log"
    log.write_text("".join(traceback.format_exception(error)))
    print(f"erpd: the run failed: {' '.join(f'{type(error).__name__}: {error}'.split())[:600]}", file=sys.stderr)
    print(f"erpd: the whole story is in {log}; the same command goes on from what is done", file=sys.stderr)


@app.command()
def recipes() -> None:
    """List the recipes, one line each."""
    from flows.recipes import read_tree, recipe_names, recipe_path

    for name in recipe_names():
        print(f"{name:<16} {read_tree(recipe_path(name))['description']}")


@app.command()
def show(recipe: str, set_: Set = None) -> None:
    """Print a recipe as the one complete, frozen config it resolves to; of a study, every arm's."""
    import yaml

    from flows.recipes import load_recipe
    from flows.studies import is_study, load_study

    with _checking():
        shown = load_study(recipe, set_ or ()) if is_study(recipe) else load_recipe(recipe, set_ or ())
    print(yaml.safe_dump(shown.model_dump(mode="json"), sort_keys=False, width=120), end="")


@app.command("eval")
def evaluate(
    model: Annotated[str, typer.Option(help="`tiny`, a model directory, or a hub id.")],
    benchmark: Annotated[str, typer.Option(help="`tiny`, a name of `erpd benchmarks`, or a JSONL, CSV or Parquet file.")],
    k: Annotated[int, typer.Option("--k", min=1, help="Samples per problem.")] = 8,
    temperature: Annotated[float, typer.Option(min=0.01)] = 0.6,
    top_p: Annotated[float, typer.Option(min=0.01, max=1.0)] = 0.95,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 1024,
    count: Annotated[int | None, typer.Option(min=1, help="How many problems; all when absent.")] = None,
    seed: int = 0,
    as_json: Json = False,
) -> None:
    """AVG@K of a policy on a benchmark, with its interval, pass@K, entropy and length."""
    with _only_json(as_json) as out:
        prepare()
        from deployments.evaluate import evaluate_model

        sampling = {"samples": k, "temperature": temperature, "top_p": top_p, "max_new_tokens": max_new_tokens}
        result = evaluate_model(model, benchmark, sampling, count, seed, Console(stderr=True), _checking)
        if as_json:
            out(json.dumps(result))
        else:
            _print_evaluation(result)


def _print_evaluation(result: dict[str, Any]) -> None:
    for name, score in result["scores"].items():
        low, high = score["ci95"]
        print(
            f"{name}: AVG@{score['k']} {100 * score['avg']:.1f}  (95 %: {100 * low:.1f} to {100 * high:.1f}, {score['problems']} problems)"
        )
    print(f"pass@{result['k']} {100 * result['pass_at_k']:.1f}   truncated {100 * result['truncated']:.1f} %")
    print(f"entropy {result['entropy']:.3f} nats/token   length {result['length']:.1f} tokens")


@app.command()
def benchmarks() -> None:
    """List the sets that have a name: training prompts, benchmarks, generated families."""
    from tasks.datasets import catalogue

    print(f"{'name':<22} {'use':<10} {'rows':>6}  {'K':>3}  about")
    for name, one in catalogue().items():
        print(f"{name:<22} {one.use:<10} {one.rows or '':>6}  {one.samples or '':>3}  {one.about}")


@app.command()
def grade(source: Path, target: Path) -> None:
    """Grade IN.jsonl of gold and prediction into OUT.jsonl with a verdict on every row."""
    from tasks.grading import grade_file

    with _checking():
        counts = grade_file(source, target)
    print("  ".join(f"{verdict} {count}" for verdict, count in counts.items()), file=sys.stderr)


@app.command("grade-code")
def grade_code(source: Path, target: Path) -> None:
    """Run the programs of IN.jsonl on their test cases, each in a sandbox, into OUT.jsonl with an outcome on every row."""
    from tasks.grading.code.files import grade_code_file
    from tasks.grading.code.grader import CodeGrader
    from tasks.grading.code.sandbox import SandboxError

    try:
        with _checking(), CodeGrader() as grader:
            counts = grade_code_file(source, target, grader)
    except SandboxError as error:
        print(f"erpd: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    print("  ".join(f"{verdict} {count}" for verdict, count in counts.items()), file=sys.stderr)


Campaigns = Annotated[list[str], typer.Argument(metavar="CAMPAIGN...", help="A campaign or a study; or several campaigns.")]


@app.command()
def report(campaigns: Campaigns) -> None:
    """Write the HTML report of a campaign or a study and print its table; of several campaigns, the page of their score against KL."""
    prepare()
    from deployments.run import report_campaign, report_efficiency, report_study
    from flows.study_files import remembered

    with _checking():
        if len(campaigns) > 1:
            path = report_efficiency(campaigns)
        elif found := remembered(campaigns[0]):
            path = report_study(*found, Console())
        else:
            path = report_campaign(campaigns[0], Console())
    print(path)


@app.command()
def up(as_json: Json = False) -> None:
    """Start the local platform on loopback: Prefect server and UI, and MLflow."""
    prepare()
    with _only_json(as_json) as out:
        from deployments import platform

        started = time.monotonic()
        try:
            links = platform.up().links
        except RuntimeError as error:
            print(f"erpd: {error}", file=sys.stderr)
            raise typer.Exit(1) from error
        if as_json:
            out(json.dumps(links))
        else:
            print(f"Prefect  {links['prefect_ui']}\nMLflow   {links['mlflow_url']}")
            print(f"ready in {time.monotonic() - started:.0f} s; `erpd down` stops both")


@app.command()
def down() -> None:
    """Stop the local platform."""
    prepare()
    from deployments import platform

    print(f"stopped {platform.down()} servers")


@app.command()
def status() -> None:
    """What of the local platform is running."""
    prepare()
    from deployments import platform

    for key, value in platform.status().items():
        print(f"{key:<12} {value}")


@app.command()
def doctor() -> None:
    """Check this machine: what is there, what is missing, and how to get it."""
    prepare()
    from deployments.doctor import examine

    raise typer.Exit(0 if examine(Console()) else 1)


if __name__ == "__main__":
    main()
