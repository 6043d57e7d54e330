"""Answer checking: `grade_one` for one answer, `Grader` for many in killable processes, `grade_file` for `erpd grade`.

extract.py (find the answer), normalise.py (one spelling), numbers.py (exact numbers), fast.py (verdicts without sympy),
structure.py (prose, conditions, assignments), math.py (Math-Verify), modes.py (others' rules,
in polaris.py and matharena.py, on plain.py), workers.py and worker_main.py (processes), files.py (JSON lines).
"""

from tasks.grading.extract import EXTRACTORS, Answer, extract
from tasks.grading.files import grade_file
from tasks.grading.math import grade_one
from tasks.grading.workers import Grader, GraderError

__all__ = ["EXTRACTORS", "Answer", "Grader", "GraderError", "extract", "grade_file", "grade_one"]
