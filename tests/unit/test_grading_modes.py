"""Grading rules of other projects: each gives its known verdicts, and none runs what it reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import sympy

from tasks.grading import Grader, grade_one
from tasks.grading.plain import parse_plain

SPECIFIC = {
    "polaris": [
        (r"\frac{3}{4}", r"\boxed{3/4}", "correct"),
        ("5 cm", r"\boxed{5}", "correct"),
        ("0.5", r"\boxed{\frac12}", "correct"),
        # an unreduced fraction is wrong
        (r"\frac{1}{2}", r"\boxed{\frac{2}{4}}", "wrong"),
        ("4", r"\boxed{\frac{8}{2}}", "wrong"),  # an integer must be written as one
        ("(1,2)", r"\boxed{(2,1)}", "wrong"),
        ("(1,2)", r"\boxed{[1,2]}", "wrong"),
        ("x+1", r"\boxed{1+x}", "correct"),
        (r"2\sqrt{3}", r"\boxed{\sqrt{12}}", "correct"),
        ("7", "The answer is 7.", "unparsable"),
        ("1000", r"\boxed{1,000}", "correct"),
        ("3", r"\boxed{2} so \boxed{3}", "correct"),
        ("5%", r"\boxed{5}", "correct"),
        (r"\frac{x+1}{2}", r"\boxed{\frac{x}{2}+1}", "wrong"),
    ],
    "matharena": [
        ("7", "so it is 7", "correct"),
        ("7", "it is 7, or rather 8", "wrong"),
        ("7", "no idea", "unparsable"),
        ("1,2", r"$\boxed{1}$ and $\boxed{2}$", "correct"),
        ("1,2", r"\boxed{2,1}", "correct"),
        ("(1,2)", r"\boxed{(2,1)}", "correct"),
        ("1,2", r"\boxed{1}", "wrong"),
        (r"\frac{1}{2}", r"\boxed{0.5}", "correct"),
        (r"\sqrt{12}", r"\boxed{2\sqrt3}", "correct"),
        (r"\binom{5}{2}", r"\boxed{10}", "correct"),
        ("12345", r"\boxed{12,345}", "correct"),
        ("5", r"\boxed{x = 5}", "correct"),
        ("(1,2),(3,4)", r"\boxed{(3,4),(1,2)}", "correct"),
        (r"\pi", r"\boxed{3.1415926535}", "correct"),
        (r"\pi", r"\boxed{3.14}", "wrong"),
        (r"\frac{\sqrt{5}-1}{2}", r"\boxed{\frac{-1+\sqrt5}{2}}", "correct"),
    ],
    "math_verify": [
        (r"\frac12", r"\boxed{0.5}", "correct"),
        ("x+1", r"$1+x$", "correct"),
        ("1/3", "0.3333333333", "correct"),
        ("4", "five", "wrong"),
        ("4", "I do not know the answer.", "unparsable"),
        ("3", r"<think>\boxed{3}</think> so $4$", "wrong"),
    ],
}


@pytest.mark.parametrize(
    ("mode", "gold", "prediction", "verdict"),
    [(mode, *case) for mode, cases in SPECIFIC.items() for case in cases],
)
def test_each_rule_gives_the_verdict_it_is_known_for(
    mode: str, gold: str, prediction: str, verdict: str
) -> None:
    assert grade_one(gold, prediction, mode) == verdict


@pytest.mark.slow
@pytest.mark.parametrize("mode", SPECIFIC)
def test_a_rule_works_in_workers_within_its_deadline_and_runs_nothing(
    mode: str, tmp_path: Path
) -> None:
    canary = tmp_path / "ran"
    attacks = [
        rf"\boxed{{open('{canary}','w')}}",
        r"\boxed{9^{9^{9^9}}}",
        r"\boxed{2^{999999999}}",
        r"\boxed{((10!)!)!}",
        "[" * 10_000,
        "",
    ]
    with Grader(workers=1, deadline=3) as grader:
        verdicts = grader.grade_many([("5", attack) for attack in [*attacks, r"\boxed{5}"]], mode)
    assert "correct" not in verdicts[:-1] and verdicts[-1] == "correct"
    assert not canary.exists()


def test_an_unknown_rule_is_refused() -> None:
    with (
        Grader() as grader,
        pytest.raises(
            ValueError, match="choose one of auto, boxed, hash, math_verify, polaris, matharena"
        ),
    ):
        grader.grade_many([("1", "1")], "deepscaler")


def test_plain_formulas_are_read_as_sympy_reads_them() -> None:
    x = sympy.Symbol("x")
    for text, value in {
        "2x^2-3": 2 * x**2 - 3,
        "-x^2": -(x**2),
        "2(x+1)/4": (x + 1) / 2,
        "sqrt(12)": 2 * sympy.sqrt(3),
        "3!": 6,
        "1/2 x": x / 2,
        "2^-1": sympy.Rational(1, 2),
        "binomial(5,2)": 10,
        "pi/2": sympy.pi / 2,
        "0.25": sympy.Rational(1, 4),
    }.items():
        assert sympy.simplify(parse_plain(text) - value) == 0, text
    for text in (
        "",
        "2+",
        "(1",
        "1)",
        "__import__('os')",
        "x.y",
        "a[0]",
        "lambda: 1",
        "9^9^9",
        "10^10^10",
        "1/0 +",
        "2000!",
        '"x"',
        "x;y",
    ):
        assert parse_plain(text) is None, text
