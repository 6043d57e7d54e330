"""Rows of code problems as prompts and unit tests: LiveCodeBench's, and those whose tests are one JSON text (AReaL-boba-2)."""

from __future__ import annotations

import base64
import io
import json
import pickle
import zlib
from typing import Any

TESTS_LIMIT = 1 << 30
"""Bytes that the unit tests of one problem may take once unpacked."""

_EXPERT = (
    "You are an expert Python programmer. You will be given a question (problem specification) and will generate a correct Python program "
    "that matches the specification and passes all tests."
)
_WITH_STARTER = "You will use the following starter code to write the solution to the problem and enclose your code within delimiters."
_WITHOUT_STARTER = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly test on the sample inputs). Enclose "
    "your code within delimiters as follows. Ensure that when the python program runs, it reads the inputs, runs the algorithm and writes "
    "output to STDOUT."
)


def livecodebench_prompt(question: str, starter: str) -> str:
    """LiveCodeBench's own wording, its system sentence in front: one user message, since not every chat template has a system role."""
    how, code = (_WITH_STARTER, starter) if starter else (_WITHOUT_STARTER, "# YOUR CODE HERE")
    return (
        f"{_EXPERT}\n\n### Question:\n{question}\n\n### Format: {how}\n```python\n{code}\n```\n\n"
        "### Answer: (use the provided format with backticks)\n\n"
    )


def livecodebench_tests(row: dict[str, Any]) -> str:
    """A row's public and private tests as JSON of inputs, outputs and, for a function, fn_name.

    **Raises:** ValueError saying which column is not what LiveCodeBench publishes.
    """
    tests = [test for column in ("public_test_cases", "private_test_cases") for test in _tests(row.get(column), column)]
    metadata = _json(row.get("metadata") or "{}", "metadata")
    name = metadata.get("func_name") if isinstance(metadata, dict) else None
    kinds = {test.get("testtype") for test in tests}
    if kinds != ({"functional"} if name else {"stdin"}):
        raise ValueError(f"tests of type {sorted(map(str, kinds))} {'with' if name else 'without'} metadata.func_name")
    return unit_tests({"inputs": [test["input"] for test in tests], "outputs": [test["output"] for test in tests], "fn_name": name})


def unit_tests(value: Any) -> str:
    """Unit tests, as JSON text or its value, in the one form the grader reads. Raises ValueError for another shape."""
    value = _json(value, "unit tests") if isinstance(value, str) else value
    inputs, outputs = (value.get("inputs"), value.get("outputs")) if isinstance(value, dict) else (None, None)
    if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs) or not inputs:
        raise ValueError("unit tests must be JSON with lists `inputs` and `outputs` of one length, at least 1")
    name = {"fn_name": str(value["fn_name"])} if value.get("fn_name") else {}
    return json.dumps({"inputs": inputs, "outputs": outputs, **name}, ensure_ascii=False)


def _tests(value: Any, column: str) -> list[dict[str, Any]]:
    tests = unpack_tests(value, column) if isinstance(value, str) else value
    if not isinstance(tests, list) or not all(isinstance(test, dict) and {"input", "output"} <= test.keys() for test in tests):
        raise ValueError(f"{column} is no list of objects with input and output")
    return tests


def unpack_tests(text: str, column: str) -> Any:
    """JSON, or JSON that was pickled, deflated and written in base64. The pickle may hold plain values only: nothing in it is called."""
    if text.lstrip()[:1] in ("[", "{"):
        return _json(text, column)
    try:
        inflate = zlib.decompressobj()
        raw = inflate.decompress(base64.b64decode(text, validate=True), TESTS_LIMIT)
        if inflate.unconsumed_tail:
            raise ValueError(f"unpacks to more than {TESTS_LIMIT} bytes")
        value = _PlainUnpickler(io.BytesIO(raw)).load()
    except (ValueError, zlib.error, pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"{column} is neither JSON nor packed tests ({error})") from error
    return _json(value, column) if isinstance(value, str | bytes) else value


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}, and only plain values are read")


def _json(text: str | bytes, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{what} is not JSON ({error})") from error
