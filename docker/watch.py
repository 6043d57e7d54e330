"""Takes the automatic decision where nobody decided in time, as `erpd up` does.

It runs next to a Prefect worker.
"""

import time

from flows.steps.human_decision import answer_overdue

SECONDS = 5.0

while True:
    answer_overdue()
    time.sleep(SECONDS)
