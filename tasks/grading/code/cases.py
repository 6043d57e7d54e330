"""Reads test cases from `unit_tests` (a dict or its JSON) and from LiveCodeBench rows."""

from __future__ import annotations

import base64
import json
import pickletools
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_TESTS = 1 << 30
"""Maximum bytes of one problem's unpacked test cases; more is a compression bomb."""
_STRINGS = {"UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
_AROUND = {"PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "STOP"}


@dataclass(frozen=True)
class Tests:
    """The test cases of one problem.

    **Example:** `read_tests({"inputs": ["[1]\\n2"], "outputs": ["[1, 2]"], "fn_name": "append"})`
    is `Tests(fn_name="append", inputs=[b"[[1], 2]"], expected=[[1, 2]])`
    """

    fn_name: str | None
    """Name of the function to call; None for programs that read stdin and write stdout."""
    inputs: list[bytes]
    """Stdin of each case: the test's input, or all arguments as one JSON list."""
    expected: list[Any]
    """Expected output or return value of each case. It never leaves this process."""


def read_tests(unit_tests: object) -> Tests:
    """Read and check `{"inputs": [...], "outputs": [...], "fn_name": optional}` or its JSON.

    **Raises:** ValueError if the test cases are invalid.
    """
    if isinstance(unit_tests, str):
        try:
            unit_tests = json.loads(unit_tests)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"unit_tests are not JSON ({error})") from error
    if not isinstance(unit_tests, Mapping):
        raise ValueError(
            f'unit_tests are a {type(unit_tests).__name__}; give {{"inputs": [...], "outputs": '
            f"[...]}}"
        )
    inputs, outputs, name = (
        unit_tests.get("inputs"),
        unit_tests.get("outputs"),
        unit_tests.get("fn_name"),
    )
    if (
        not isinstance(inputs, list)
        or not isinstance(outputs, list)
        or len(inputs) != len(outputs)
        or not inputs
    ):
        raise ValueError(
            'unit_tests need "inputs" and "outputs", two non-empty lists of the same length'
        )
    if name is None:
        return Tests(
            None,
            [_text(item).encode("utf-8", "replace") for item in inputs],
            [_text(item) for item in outputs],
        )
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f'"fn_name" of unit_tests is {json.dumps(name)[:40]}, not a function name')
    arguments = [json.dumps(_arguments(item, index)).encode() for index, item in enumerate(inputs)]
    return Tests(
        name,
        arguments,
        [
            _json(item, f"output {index}") if isinstance(item, str) else item
            for index, item in enumerate(outputs)
        ],
    )


def _text(item: Any) -> str:
    """Convert an input or output to text; some data sets give its lines as a list."""
    return (
        "\n".join(map(_text, item))
        if isinstance(item, list)
        else item
        if isinstance(item, str)
        else json.dumps(item)
    )


def _arguments(item: Any, index: int) -> list[Any]:
    """Read arguments: one JSON value per line (LiveCodeBench) or a list of values (TACO, APPS)."""
    if isinstance(item, list):
        return item
    return [_json(line, f"input {index}") for line in _text(item).split("\n") if line.strip()]


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"unit_tests with a fn_name need JSON; {where} is not ({error})"
        ) from error


def livecodebench_tests(row: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a row of livecodebench/code_generation_lite to `unit_tests`.

    **Returns:** `{"inputs", "outputs"}`, public cases before private ones, and `"fn_name"` if the
        cases call a function.
    **Raises:** ValueError if the cases have an unknown form.
    """
    cases = [*_cases(row["public_test_cases"]), *_cases(row["private_test_cases"])]
    tests: dict[str, Any] = {
        "inputs": [case["input"] for case in cases],
        "outputs": [case["output"] for case in cases],
    }
    metadata = row.get("metadata") or {}
    name = (json.loads(metadata) if isinstance(metadata, str) else metadata).get("func_name")
    return tests | ({"fn_name": name} if name else {})


def _cases(packed: str) -> list[dict[str, str]]:
    """Read cases that are packed as JSON or as base64 of zlib of a pickled JSON string."""
    try:
        cases = json.loads(packed)
    except ValueError:
        cases = json.loads(unpickle_text(_inflate(packed)))
    if not isinstance(cases, list) or not all(
        isinstance(case, dict) and {"input", "output"} <= case.keys() for case in cases
    ):
        raise ValueError('test cases are not a list of {"input", "output", "testtype"}')
    return cases


def _inflate(packed: str) -> bytes:
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(packed, validate=True), MAX_TESTS)
    except (ValueError, zlib.error) as error:
        raise ValueError(f"test cases are neither JSON nor base64 of zlib ({error})") from error
    if not unpacker.eof:
        raise ValueError(f"test cases are cut off, or unpack to more than {MAX_TESTS >> 20} MiB")
    return data


def unpickle_text(data: bytes) -> str:
    """Read a pickle that holds one string, without unpickling it.

    Only the opcodes are read. (An Unpickler without `find_class` would still allocate as much
    memory as a hostile memo index requests.)

    **Raises:** ValueError if an opcode does more than hold a string, or if there is not exactly one
        string.
    """
    text: list[str] = []
    try:
        for operation, argument, _ in pickletools.genops(data):
            if operation.name in _STRINGS:
                text.append(str(argument))
            elif operation.name not in _AROUND:
                raise ValueError(f"it has {operation.name}")
    except ValueError as error:
        raise ValueError(
            f"the pickle of test cases must hold one string and nothing else: {error}"
        ) from error
    if len(text) != 1:
        raise ValueError(f"the pickle of test cases must hold one string; it has {len(text)}")
    return text[0]
