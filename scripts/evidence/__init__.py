"""Evidence: which of the paper's findings reproduce at small scale, how surely, and at what cost.

    python -m scripts.evidence           # run each study and seed without a record, then the page
    python -m scripts.evidence --page    # only the page and its figures, from existing records

Files in `studies/` are recipes (`erpd run scripts/evidence/studies/steps.yaml --set seed=0`).
`claims.py` says what is claimed and how it is judged. A record holds the results of a study on one
seed; with it, the study need not be run again.

A stage takes one core (`runtime: {cpus: 1}`), so that arms run in parallel: on two cores, a model
this small would be only 1.3 times as fast. Only `clock`, which measures time, runs one stage at a
time on the whole machine.
"""
