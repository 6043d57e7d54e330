"""Beside a Prefect worker: take the automatic decision for campaigns whose person did not answer
in time, as `erpd up` does.
"""

import time

from flows.steps.human_decision import answer_overdue

SECONDS = 5.0

while True:
    answer_overdue()
    time.sleep(SECONDS)
