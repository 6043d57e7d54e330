"""docs/grading.md: examples get the stated verdict, and programs import names that exist."""

from __future__ import annotations

import ast

from doc_names import PACKAGES, ROOT, SPAN, fences, python_name_exists, rows

GRADING = ROOT / "docs" / "grading.md"


def test_examples_of_the_grading_page_get_the_verdict_it_says() -> None:
    from tasks.grading import grade_one

    examples = [
        cells[1:4] for cells in rows(GRADING, "convention", "gold", "prediction", "verdict")
    ]
    assert len(examples) > 20
    unquoted = [[SPAN.sub(r"\2", cell) for cell in cells] for cells in examples]
    assert [cells for cells in unquoted if grade_one(cells[0], cells[1]) != cells[2]] == []


def test_programs_of_the_grading_page_are_python_that_imports_what_exists() -> None:
    programs = [
        block for language, block in fences(GRADING) if language == "bash" and "<<'END'" in block
    ]
    assert programs
    for program in programs:
        module = ast.parse(program.partition("<<'END'\n")[2].partition("\nEND")[0])
        for node in ast.walk(module):
            if (
                isinstance(node, ast.ImportFrom)
                and node.module
                and node.module.partition(".")[0] in PACKAGES
            ):
                assert all(
                    python_name_exists(f"{node.module}.{alias.name}") for alias in node.names
                )
