"""Rows of code problems as prompts and unit tests.

Reads LiveCodeBench's rows, and rows whose tests are one JSON text (AReaL-boba-2).
"""

from __future__ import annotations

import json
from typing import Any

from tasks.grading.code import cases

_EXPERT = (
    "You are an expert Python programmer. You will be given a question (problem specification) "
    "and will generate a correct Python program "
    "that matches the specification and passes all tests."
)
_WITH_STARTER = (
    "You will use the following starter code to write the solution to the problem and enclose "
    "your code within delimiters."
)
_WITHOUT_STARTER = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly "
    "test on the sample inputs). Enclose "
    "your code within delimiters as follows. Ensure that when the python program runs, it reads "
    "the inputs, runs the algorithm and writes "
    "output to STDOUT."
)


def livecodebench_prompt(question: str, starter: str) -> str:
    """A problem in LiveCodeBench's own wording, with its system sentence in front.

    This is one user message, because not every chat template has a system role.
    """
    how, code = (_WITH_STARTER, starter) if starter else (_WITHOUT_STARTER, "# YOUR CODE HERE")
    return (
        f"{_EXPERT}\n\n### Question:\n{question}\n\n### Format: {how}\n```python\n{code}\n```\n\n"
        "### Answer: (use the provided format with backticks)\n\n"
    )


def livecodebench_tests(row: dict[str, Any]) -> str:
    """The public and private tests of a row, as gold.

    **Raises:** ValueError for tests that are not in a form that LiveCodeBench publishes.
    """
    try:
        return unit_tests(cases.livecodebench_tests(row))
    except (AttributeError, TypeError) as error:
        raise ValueError(
            f"test cases or metadata are not what LiveCodeBench publishes ({error})"
        ) from error


def unit_tests(value: Any) -> str:
    """Unit tests as gold: JSON of inputs, outputs and, for a function, fn_name.

    **Arguments:**
        value: The tests, as JSON text or as its parsed value.
    **Raises:** ValueError if programs cannot be graded with the tests.
    """
    value = json.loads(value) if isinstance(value, str) else value
    if isinstance(value, dict) and not value.get("fn_name"):
        value = {key: part for key, part in value.items() if key != "fn_name"}
    cases.read_tests(value)
    return json.dumps(
        {key: value[key] for key in ("inputs", "outputs", "fn_name") if key in value},
        ensure_ascii=False,
    )
