"""Code grading without running a program: find programs, read test cases, compare outputs."""

from __future__ import annotations

import base64
import json
import pickle
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.grading.code.cases import livecodebench_tests, read_tests, unpickle_text
from tasks.grading.code.compare import same_output, same_value
from tasks.grading.code.extract import program
from tasks.grading.code.grader import judge_case
from tasks.grading.code.sandbox import Ran


@pytest.mark.parametrize(
    ("response", "found"),
    [
        ("So:\n```python\nprint(1)\n```\nDone.", "print(1)"),
        ("```\nprint(1)\n```\nor better\n```py\nprint(2)\n\n```", "print(2)\n"),
        ("<think>\n```python\nprint(1)\n```\n</think>\nThat is it.", None),
        ("<think>\n```python\nprint(1)\n```\n</think>\n```python\nprint(2)\n```", "print(2)"),
        ("```python\nprint(1)\n```\n```python\nprint(2", "print(1)"),
        ("```python\nprint(1", None),
        ("````md\n```\nnot the end\n```\n````", "```\nnot the end\n```"),
        ("~~~python\nprint('```')\n~~~", "print('```')"),
        ("no code, only `print(1)`", None),
        ("```python\n\n```", None),
        ("1. as follows\n   ```python\nprint(1)\n   ```", "print(1)"),
        ("", None),
    ],
)
def test_the_program_is_the_last_closed_block_after_the_thinking(
    response: str, found: str | None
) -> None:
    assert program(response) == found


@given(st.text(alphabet="`~ \npx</think>", max_size=60))
def test_finding_a_program_never_raises(response: str) -> None:
    assert program(response) is None or "\n" not in response or program(response)


@pytest.mark.parametrize(
    ("printed", "expected", "same"),
    [
        ("1 2\n3\n", "1 2\n3", True),
        ("  1 2 \n 3  \n\n", "1 2\n3", True),
        ("1\n\n2", "1\n2", False),
        ("1 2", "1\n2", False),
        ("1  2", "1 2", True),  # compared as decimals, word by word
        ("a  b", "a b", False),
        ("0.50", ".5", True),
        ("1e2", "100.0", True),
        ("0.3333333", "0.33333333", False),
        ("50000000000000001", "50000000000000000", False),
        ("YES", "yes", False),
        ("", "", True),
        ("", "0", False),
        ("nan", "nan", True),
        ("NaN", "nan", False),
        ("sNaN", "1", False),
        ("1e999999999999999999999", "1", False),
        ("9" * 200_000, "9" * 200_000 + ".0", True),
    ],
)
def test_output_compares_as_livecodebench_does(printed: str, expected: str, same: bool) -> None:
    assert same_output(printed, expected) is same


def test_values_compare_exactly() -> None:
    assert same_value([1, [2.0, "x"]], [1, [2, "x"]])
    assert same_value(True, 1)
    assert not same_value(0.1 + 0.2, 0.3)
    assert not same_value("1", 1)
    assert not same_value({"a": 1}, {"a": 1, "b": 2})
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    assert not same_value(deep, [deep, 1])


def test_stdin_cases() -> None:
    tests = read_tests({"inputs": ["1\n2\n", ["3", "4"]], "outputs": ["3", ["7", ""]]})
    assert tests.fn_name is None
    assert (tests.inputs, tests.expected) == ([b"1\n2\n", b"3\n4"], ["3", "7\n"])


def test_functional_cases_are_one_json_argument_per_line() -> None:
    tests = read_tests(
        json.dumps(
            {
                "inputs": ['[1, 2]\n"a\\nb"', "", [[1], 2]],
                "outputs": ["[1]", "null", 5],
                "fn_name": "f",
            }
        )
    )
    assert [json.loads(data) for data in tests.inputs] == [[[1, 2], "a\nb"], [], [[1], 2]]
    assert (tests.fn_name, tests.expected) == ("f", [[1], None, 5])


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ("{", "not JSON"),
        ([], "list"),
        ({"inputs": []}, "outputs"),
        ({"inputs": [], "outputs": []}, "empty"),
        ({"inputs": ["1"], "outputs": []}, "same length"),
        ({"inputs": ["x"], "outputs": ["1"], "fn_name": "f"}, "input 0"),
        ({"inputs": ["1"], "outputs": ["x"], "fn_name": "f"}, "output 0"),
        ({"inputs": ["1"], "outputs": ["1"], "fn_name": "os.system"}, "fn_name"),
        ("[" * 100_000, "not JSON"),
    ],
    ids=["text", "list", "no outputs", "empty", "lengths", "input", "output", "name", "deep"],
)
def test_unit_tests_that_cannot_be_read_are_refused(given: object, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        read_tests(given)


# ------------------------------------------------------------------------------------ LiveCodeBench


def packed(cases: Any, protocol: int | None = None) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases), protocol))).decode()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_private_cases_are_unpacked(protocol: int) -> None:
    private = [{"input": f"{n} é", "output": "x" * 300, "testtype": "stdin"} for n in range(3)]
    row = {
        "public_test_cases": json.dumps([{"input": "1", "output": "2", "testtype": "stdin"}]),
        "metadata": "{}",
    }
    tests = livecodebench_tests(row | {"private_test_cases": packed(private, protocol)})
    assert tests == {"inputs": ["1", "0 é", "1 é", "2 é"], "outputs": ["2", *["x" * 300] * 3]}
    assert livecodebench_tests(row | {"private_test_cases": json.dumps(private)}) == tests


def test_a_function_name_makes_cases_functional() -> None:
    case = [{"input": "[1]\n2", "output": "3", "testtype": "functional"}]
    row = {
        "public_test_cases": json.dumps(case),
        "private_test_cases": packed(case),
        "metadata": json.dumps({"func_name": "f"}),
    }
    tests = read_tests(livecodebench_tests(row))
    assert (tests.fn_name, tests.inputs, tests.expected) == ("f", [b"[[1], 2]"] * 2, [3, 3])


class Hostile:
    """Would run code if it was unpickled."""

    def __reduce__(self) -> Any:
        return (print, ("it ran",))


def test_pickles_that_could_do_anything_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = base64.b64encode(zlib.compress(pickle.dumps(Hostile()))).decode()
    with pytest.raises(ValueError, match="one string"):
        livecodebench_tests({"public_test_cases": "[]", "private_test_cases": hostile})
    assert capsys.readouterr().out == ""
    huge_memo = (
        pickle.PROTO
        + b"\x04"
        + pickle.BINUNICODE
        + b"\x01\0\0\0x"
        + pickle.LONG_BINPUT
        + b"\xff\xff\xff\x7f"
        + pickle.STOP
    )
    assert unpickle_text(huge_memo) == "x"  # an Unpickler would allocate 16 GiB
    for data in (pickle.dumps(["a"]), pickle.dumps(1), b"", b"junk", pickle.dumps("a")[:-1]):
        with pytest.raises(ValueError, match="one string"):
            unpickle_text(data)


@pytest.mark.parametrize(
    "damage",
    [
        "not base64!",
        base64.b64encode(b"junk").decode(),
        packed([])[:20],
        packed({"a": 1}),
        packed([{"input": "1"}]),
    ],
)
def test_cases_in_no_known_form_are_refused(damage: str) -> None:
    with pytest.raises(ValueError, match="test cases"):
        livecodebench_tests({"public_test_cases": "[]", "private_test_cases": damage})


# ------------------------------------------------------------------ verdicts by how a program ended


@pytest.mark.parametrize(
    ("ran", "verdict"),
    [
        (Ran("exit", b"42\n", b'{"done": true}'), "correct"),
        (Ran("exit", b"41", b'{"done": true}'), "wrong"),
        (Ran("exit", b"42", b""), "error"),
        (Ran("exit", b"42", b"[" * 100_000), "error"),
        (Ran("exit", b"42", b"[]"), "error"),
        (Ran("exit", b"\xff42", b'{"done": true}'), "wrong"),
        (Ran("time", b"42", b'{"done": true}'), "timeout"),
        (Ran("output", b"42", b'{"done": true}'), "error"),
        (Ran("lost"), "error"),
    ],
)
def test_a_case_is_correct_only_if_the_program_ended_by_itself(ran: Ran, verdict: str) -> None:
    assert judge_case(ran, "42", functional=False) == verdict


def test_a_function_is_judged_by_its_value_only() -> None:
    assert (
        judge_case(Ran("exit", b"noise", b'{"value": [1, 2]}'), [1, 2], functional=True)
        == "correct"
    )
    assert (
        judge_case(Ran("exit", b"[1, 2]", b'{"value": null}'), [1, 2], functional=True) == "wrong"
    )
    assert judge_case(Ran("exit", b"", b'{"not_json": true}'), None, functional=True) == "wrong"
    assert (
        judge_case(Ran("exit", b"", b'{"value": ' + b"1" * 9999 + b"}"), 1, functional=True)
        == "error"
    )
