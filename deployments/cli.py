"""The `erpd` command line.

Exit codes: 0 success; 1 the run failed; 2 bad input, with one line that says what is wrong, where,
and how to fix it.
"""

from __future__ import annotations

import atexit
import gc
import getpass
import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from deployments.commands.exit_codes import failing
from deployments.commands.grade import grading
from deployments.commands.lineage import lineage_commands
from deployments.commands.schedule import scheduling
from deployments.output.console import BadInput, Json, checking, only_json, prepare_for, say
from tasks.host.disk_faults import describe_disk_fault
from tasks.host.home import home, point, prepare, remove_empty
from tasks.host.services import check_urls

app = typer.Typer(
    help="Extreme Region Policy Distillation: extract the learning signal of a fixed batch of "
    "rollouts, then distil it under a trust region.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY.PATH=VALUE", help="Change one value of the recipe; may be repeated."
    ),
]

app.add_typer(grading)
app.add_typer(scheduling)
app.add_typer(lineage_commands)


def main() -> None:
    """Run the console script and exit with its code."""
    atexit.register(gc.freeze)  # else the interpreter looks at a million objects before it ends
    home_is_new = False
    try:
        with checking():
            home_is_new = not point().exists()
            check_urls()
        sys.exit(app(standalone_mode=False, prog_name="erpd"))
    except BadInput as error:
        say(str(error))
    except typer.TyperException as error:  # unknown command or option, or an invalid value
        context = getattr(error, "ctx", None)
        say(
            f"{error.format_message().rstrip('.')}; see "
            f"{context.command_path if context else 'erpd'} --help"
        )
    except Exception as error:
        if (fault := describe_disk_fault(error)) is None:
            raise
        say(f"{fault}, then rerun the same command")
        sys.exit(1)
    if home_is_new:
        remove_empty()
    sys.exit(2)


@app.command()
def run(recipe: str, set_: Set = None, as_json: Json = False) -> None:
    """Run a campaign or a study in the foreground, or resume one that was interrupted.

    Studies also take `--set scale=paper`.
    """
    from flows.steps.preflight import PreparedStudy, prepare_run

    with checking():
        prepared = prepare_run(recipe, set_ or ())
    with only_json(as_json) as out:
        prepare()
        from deployments.commands.run import run_campaign_in_foreground, run_study_in_foreground

        console = Console(stderr=as_json)
        with failing():
            if isinstance(prepared, PreparedStudy):
                result = run_study_in_foreground(prepared, console)
            else:
                result = run_campaign_in_foreground(prepared, recipe, console)
        if as_json:
            out(json.dumps(result))


@app.command()
def recipes() -> None:
    """List the recipes, one line each."""
    from flows.recipes.load import read_tree, recipe_names, recipe_path

    for name in recipe_names():
        print(f"{name:<16} {read_tree(recipe_path(name))['description']}")


@app.command()
def show(
    recipe: str,
    set_: Set = None,
    machine: Annotated[
        str | None,
        typer.Option(
            help="Machine to estimate for: H100, A100, L40S, `this`, or a YAML file. Default: H100 "
            "for recipes with device cuda, else `this`."
        ),
    ] = None,
) -> None:
    """Print a recipe's complete, resolved config and its estimated cost; for a study, every arm."""
    import yaml

    from deployments.output.estimate import estimate, study_estimate
    from flows.recipes.load import load_recipe
    from flows.recipes.studies import is_study, load_study

    shown: Any
    with checking():
        if is_study(recipe):
            shown = load_study(recipe, set_ or ())
            cost = study_estimate([(arm.name, arm.config) for arm in shown.arms], machine)
        else:
            shown = load_recipe(recipe, set_ or ())
            cost = estimate(shown, machine)
    print(yaml.safe_dump(shown.model_dump(mode="json"), sort_keys=False, width=120), end="")
    print(f"\n{cost}", end="")


@app.command("eval")
def evaluate(
    model: Annotated[str, typer.Option(help="`tiny`, a model directory, or a hub id.")],
    benchmark: Annotated[
        list[str],
        typer.Option(
            help="`tiny`, a name of `erpd benchmarks`, or a file of problems; may be repeated."
        ),
    ],
    against: Annotated[
        str | None, typer.Option(help="Another model, for a problem-by-problem comparison.")
    ] = None,
    k: Annotated[
        int | None,
        typer.Option("--k", help="Samples per problem. Default: the benchmark's own, else 8."),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Default: 0.6; 1.0 for Qwen3.5.")
    ] = None,
    top_p: Annotated[float | None, typer.Option(help="Default: 0.95.")] = None,
    top_k: Annotated[
        int | None, typer.Option(help="Default: the model's own; 0 turns it off.")
    ] = None,
    presence_penalty: Annotated[
        float | None, typer.Option(help="Default: 0; 1.5 for Qwen3.5.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Default: the paper's value for its models, else 1024.")
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(min=1, max=1_000_000, help="Number of problems per benchmark. Default: all."),
    ] = None,
    seed: int = 0,
    template: Annotated[
        str | None,
        typer.Option(help="Prompt template with {problem} in it. Default: the benchmark's own."),
    ] = None,
    extractor: Annotated[
        str | None, typer.Option(help="auto, boxed or hash. Default: the benchmark's own.")
    ] = None,
    per_problem: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write one row per problem to it (.jsonl or .parquet)."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="`runtime.KEY`: device, engine and so on; `judge.KEY`: endpoint, model and so on.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a model's AVG@K, pass@K and majority@K, alone or against another model.

    Rerun the same command to resume an interrupted evaluation.
    """
    from flows.inspect.evaluate_models import EvaluationRequest, plan_evaluation

    sampling = {
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "presence_penalty": presence_penalty,
        "max_new_tokens": max_new_tokens,
    }
    wording = {"template": template, "extractor": extractor}
    request = EvaluationRequest(
        model, benchmark, against, k, wording, sampling, count, seed, set_ or (), per_problem
    )
    with checking():
        plan = plan_evaluation(request)
    with only_json(as_json) as out:
        prepare()
        from deployments.output.evaluation import print_evaluation
        from deployments.output.progress_bars import Display
        from flows.inspect.evaluate_models import evaluate_models

        # one file per process, so that each of two parallel evaluations shows its own progress
        events = home() / "logs" / f"eval-{os.getpid()}.events.jsonl"
        with failing(), Display({events: ""}, Console(stderr=True)):
            result, rows = evaluate_models(plan, events)
        events.unlink(missing_ok=True)
        if as_json:
            out(json.dumps(result))
        else:
            print_evaluation(result, rows, {"model": model, "against": against or ""}, Console())


@app.command()
def benchmarks() -> None:
    """List the named datasets: training prompts, benchmarks, generated families."""
    from tasks.datasets import catalogue

    print(f"{'name':<22} {'use':<10} {'rows':>6}  {'K':>3}  about")
    for name, entry in catalogue().items():
        print(
            f"{name:<22} {entry.use:<10} {entry.rows or '':>6}  {entry.samples or '':>3}  "
            f"{entry.about}"
        )


@app.command()
def decide(
    campaign: Annotated[
        str | None,
        typer.Argument(help="A campaign that waits for a decision. Default: show all of them."),
    ] = None,
    strategy: Annotated[str | None, typer.Option(help="S1, S2, S3, online or stop.")] = None,
    student: Annotated[
        int | None,
        typer.Option(help="For S3: iteration of the earlier student. Default: automatic."),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Distillation steps of this iteration. Default: the recipe's."),
    ] = None,
    kl_budget: Annotated[
        float | None,
        typer.Option(help="KL from the iteration's start, nats per token. Default: the recipe's."),
    ] = None,
    by: Annotated[str | None, typer.Option(help="Who decides. Default: your login name.")] = None,
    why: Annotated[
        str | None, typer.Option(help="The reason, for the registry and MLflow.")
    ] = None,
) -> None:
    """Decide for a campaign with `decision.mode: ask`, or list the pending decisions."""
    prepare_for(campaign)
    from deployments.commands.decide import decide as answer
    from deployments.commands.decide import show_waiting

    if campaign is None or strategy is None:
        show_waiting(Console())
        return
    with checking():
        given = {
            "strategy": strategy,
            "student": student,
            "steps": steps,
            "kl_budget": kl_budget,
            "why": why,
        }
        decision = answer(campaign, given | {"by": by or getpass.getuser()})
    print(f"{decision.campaign}, iteration {decision.iteration}: {strategy}")


Campaigns = Annotated[
    list[str],
    typer.Argument(metavar="CAMPAIGN...", help="A campaign, a study, or several campaigns."),
]


@app.command()
def report(campaigns: Campaigns) -> None:
    """Write the HTML report of a campaign or a study and print its table.

    For several campaigns, write one page with their scores against KL.
    """
    prepare_for(campaigns[0])
    from deployments.commands.report import report_campaign, report_efficiency, report_study
    from flows.recipes.study_files import remembered

    with checking():
        if len(campaigns) > 1:
            path = report_efficiency(campaigns)
        elif study := remembered(campaigns[0]):
            path = report_study(*study, Console())
        else:
            path = report_campaign(campaigns[0], Console())
    print(path)


@app.command()
def up(
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on. Any address but loopback requires logins, set in the "
            "environment."
        ),
    ] = "127.0.0.1",
    as_json: Json = False,
) -> None:
    """Start the local platform: Prefect server and UI with the deployments, and MLflow.

    It listens on loopback unless --host says otherwise.
    """
    prepare()
    with only_json(as_json) as out:
        from deployments.servers import local_platform

        started = time.monotonic()
        try:
            with checking():
                links = local_platform.up(host).links
        except RuntimeError as error:
            print(f"erpd: {error}", file=sys.stderr)
            raise typer.Exit(1) from error
        if as_json:
            out(json.dumps(links))
        else:
            print(f"Prefect  {links['prefect_ui']}\nMLflow   {links['mlflow_url']}")
            print(f"ready in {time.monotonic() - started:.0f} s; `erpd down` stops it")


@app.command()
def down() -> None:
    """Stop the local platform."""
    prepare()
    from deployments.servers import local_platform

    print(f"stopped {local_platform.down()} processes")


@app.command()
def status() -> None:
    """Show whether the local platform runs, and its URLs."""
    prepare()
    from deployments.servers import local_platform

    for key, value in local_platform.status().items():
        print(f"{key:<12} {value}")


@app.command()
def doctor() -> None:
    """Check this machine: what is installed, what is missing, and how to get it."""
    prepare()
    from deployments.commands.doctor import examine

    raise typer.Exit(0 if examine(Console()) else 1)


if __name__ == "__main__":
    main()
