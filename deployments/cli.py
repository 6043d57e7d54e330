"""The `erpd` command. Exit codes: 0 done; 2 bad input, one line saying what, where and how to
mend it; 1 a failure of the run.
"""

from __future__ import annotations

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
    help="Extreme Region Policy Distillation: squeeze a fixed batch of rollouts, then distil "
    "what it taught under a trust region.",
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
    """Entry point of the console script."""
    new = False
    try:
        with checking():
            new = not point().exists()
            check_urls()
        sys.exit(app(standalone_mode=False, prog_name="erpd"))
    except BadInput as error:
        say(str(error))
    except typer.TyperException as error:  # unknown command or option, or a value it refuses
        context = getattr(error, "ctx", None)
        say(
            f"{error.format_message().rstrip('.')}; see "
            f"{context.command_path if context else 'erpd'} --help"
        )
    except Exception as error:
        if (fault := describe_disk_fault(error)) is None:
            raise
        say(f"{fault}, and give the same command again")
        sys.exit(1)
    if new:
        remove_empty()
    sys.exit(2)


@app.command()
def run(recipe: str, set_: Set = None, as_json: Json = False) -> None:
    """Run a campaign or a study in the foreground, or go on with one that was interrupted.
    `--set scale=paper` is for studies.
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
            help="What the estimate is for: H100, A100, L40S, `this`, or a YAML file; H100 for "
            "recipes with device cuda."
        ),
    ] = None,
) -> None:
    """Print a recipe as the one complete, frozen config it resolves to, then what it will cost;
    of a study, every arm's.
    """
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
        str | None, typer.Option(help="Another model, compared with the first problem by problem.")
    ] = None,
    k: Annotated[
        int | None,
        typer.Option("--k", help="Samples per problem; the benchmark's own, else 8, when absent."),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0.6 when absent; 1.0 for Qwen3.5.")
    ] = None,
    top_p: Annotated[float | None, typer.Option(help="0.95 when absent.")] = None,
    top_k: Annotated[
        int | None, typer.Option(help="The model's own when absent; 0 turns it off.")
    ] = None,
    presence_penalty: Annotated[
        float | None, typer.Option(help="0 when absent; 1.5 for Qwen3.5.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="The paper's for its models, else 1024, when absent.")
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            min=1, max=1_000_000, help="How many problems of each benchmark; all when absent."
        ),
    ] = None,
    seed: int = 0,
    template: Annotated[
        str | None,
        typer.Option(
            help="Wording of the prompts, {problem} in it; the benchmark's own when absent."
        ),
    ] = None,
    extractor: Annotated[
        str | None, typer.Option(help="auto, boxed or hash; the benchmark's own when absent.")
    ] = None,
    per_problem: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a row per problem here (.jsonl or .parquet)."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="`runtime.KEY`: device, engine and the like; `judge.KEY`: endpoint and model.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """AVG@K, pass@K and majority@K of a model on benchmarks, alone or against another model. An
    interrupted one goes on.
    """
    from flows.inspect.evaluate_models import Asked, plan_evaluation

    sampling = {
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "presence_penalty": presence_penalty,
        "max_new_tokens": max_new_tokens,
    }
    wording = {"template": template, "extractor": extractor}
    asked = Asked(
        model, benchmark, against, k, wording, sampling, count, seed, set_ or (), per_problem
    )
    with checking():
        plan = plan_evaluation(asked)
    with only_json(as_json) as out:
        prepare()
        from deployments.output.evaluation import print_evaluation
        from deployments.output.progress_bars import Display
        from flows.inspect.evaluate_models import evaluate_models

        # two evaluations at once show each its own progress
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
    """List the sets that have a name: training prompts, benchmarks, generated families."""
    from tasks.datasets import catalogue

    print(f"{'name':<22} {'use':<10} {'rows':>6}  {'K':>3}  about")
    for name, one in catalogue().items():
        print(f"{name:<22} {one.use:<10} {one.rows or '':>6}  {one.samples or '':>3}  {one.about}")


@app.command()
def decide(
    campaign: Annotated[
        str | None, typer.Argument(help="A campaign that waits; all of them are shown when absent.")
    ] = None,
    strategy: Annotated[str | None, typer.Option(help="S1, S2, S3, online or stop.")] = None,
    student: Annotated[
        int | None,
        typer.Option(help="For S3: the iteration of the earlier student; automatic when absent."),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Distillation steps of this iteration; the recipe's when absent."),
    ] = None,
    kl_budget: Annotated[
        float | None, typer.Option(help="Nats per token from the start; the recipe's when absent.")
    ] = None,
    by: Annotated[
        str | None, typer.Option(help="Who decides; your login name when absent.")
    ] = None,
    why: Annotated[str | None, typer.Option(help="Goes to the registry and MLflow.")] = None,
) -> None:
    """Decide for a campaign that asks (`decision.mode: ask`); without arguments, show what
    waits.
    """
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
        one = answer(campaign, given | {"by": by or getpass.getuser()})
    print(f"{one.campaign}, iteration {one.iteration}: {strategy}")


Campaigns = Annotated[
    list[str],
    typer.Argument(metavar="CAMPAIGN...", help="A campaign or a study; or several campaigns."),
]


@app.command()
def report(campaigns: Campaigns) -> None:
    """Write the HTML report of a campaign or a study and print its table; of several campaigns,
    the page of their score against KL.
    """
    prepare_for(campaigns[0])
    from deployments.commands.report import report_campaign, report_efficiency, report_study
    from flows.recipes.study_files import remembered

    with checking():
        if len(campaigns) > 1:
            path = report_efficiency(campaigns)
        elif found := remembered(campaigns[0]):
            path = report_study(*found, Console())
        else:
            path = report_campaign(campaigns[0], Console())
    print(path)


@app.command()
def up(
    host: Annotated[
        str,
        typer.Option(
            help="Where to listen. Another address than loopback asks for logins, and needs "
            "them set."
        ),
    ] = "127.0.0.1",
    as_json: Json = False,
) -> None:
    """Start the local platform, on loopback unless asked otherwise: Prefect server and UI with
    the deployments, and MLflow.
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
    """What of the local platform is running."""
    prepare()
    from deployments.servers import local_platform

    for key, value in local_platform.status().items():
        print(f"{key:<12} {value}")


@app.command()
def doctor() -> None:
    """Check this machine: what is there, what is missing, and how to get it."""
    prepare()
    from deployments.commands.doctor import examine

    raise typer.Exit(0 if examine(Console()) else 1)


if __name__ == "__main__":
    main()
