"""Commands that grade answers and programs in files: `erpd grade`, `grade-code`, `judge`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from deployments.output.console import Json, checking, only_json
from tasks.host.home import prepare

grading = typer.Typer()


@grading.command()
def grade(
    source: Path,
    target: Path,
    mode: Annotated[
        str,
        typer.Option(
            help="auto, boxed or hash: this project's rules, by where the answer is; math_verify, "
            "polaris, matharena: the rules of other projects."
        ),
    ] = "auto",
) -> None:
    """Grade the predictions of IN.jsonl against their gold answers; write verdicts to OUT.jsonl."""
    from tasks.grading import grade_file

    with checking():
        counts = grade_file(source, target, mode)
    print("  ".join(f"{verdict} {count}" for verdict, count in counts.items()), file=sys.stderr)


@grading.command("grade-code")
def grade_code(source: Path, target: Path) -> None:
    """Run each program of IN.jsonl on its test cases in a sandbox; write outcomes to OUT.jsonl."""
    from tasks.grading.code.files import grade_code_file
    from tasks.grading.code.grader import CodeGrader
    from tasks.grading.code.sandbox import SandboxError

    try:
        with checking(), CodeGrader() as grader:
            counts = grade_code_file(source, target, grader)
    except SandboxError as error:
        print(f"erpd: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    print("  ".join(f"{verdict} {count}" for verdict, count in counts.items()), file=sys.stderr)


@grading.command()
def judge(
    source: Path,
    target: Path,
    endpoint: Annotated[
        str,
        typer.Option(
            help="URL of an OpenAI-compatible server, for example http://127.0.0.1:8000/v1."
        ),
    ],
    model: Annotated[str, typer.Option(help="The model's name on that server.")],
    key_env: Annotated[
        str | None, typer.Option(help="Environment variable that holds the API key.")
    ] = None,
    max_calls: Annotated[
        int | None,
        typer.Option(
            min=1, help="Maximum number of requests; rows beyond it keep the rules' verdict."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Grade IN.jsonl by rules, then ask an LLM judge about answers the rules reject.

    Rows have problem, gold and prediction; verdicts go to OUT.jsonl.
    """
    with only_json(as_json) as out:
        from pydantic import ValidationError

        from erpd_core.config.judge import JudgeConfig
        from flows.recipes.load import explain
        from tasks.evaluation.judge import JudgeError
        from tasks.evaluation.judge.client import key_of
        from tasks.evaluation.judge.files import judge_file, read_judge_rows
        from tasks.untrusted.output_files import check_output

        limits = {} if max_calls is None else {"max_calls": max_calls}
        try:
            with checking():
                try:
                    config = JudgeConfig(endpoint=endpoint, model=model, key_env=key_env, **limits)
                except ValidationError as error:
                    raise ValueError(explain(error)) from error
                key_of(config)
                read_judge_rows(source)
                check_output(target)
                prepare()
                result = judge_file(source, target, config)
        except JudgeError as error:
            print(f"erpd: {error}; rerun the same command to resume", file=sys.stderr)
            raise typer.Exit(1) from error
        if as_json:
            out(json.dumps(result))
        else:
            print("  ".join(f"{name} {value}" for name, value in result.items()), file=sys.stderr)
