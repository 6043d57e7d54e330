"""Which of the paper's findings this implementation shows at small scale, how surely, and what it
costs to repeat.

    python -m scripts.evidence                  # every study on every seed that has no record yet,
    then the page python -m scripts.evidence --page           # the page and its figures from the
    records there are

`studies/` says what is run (a study's file is a recipe: `erpd run
scripts/evidence/studies/steps.yaml --set seed=0`), `claims.py` what is claimed and how it is
judged. A record is what is left of a study on a seed; who has it need not run the study.

Stages take one core each (`runtime: {cpus: 1}`), so arms run side by side: of two cores a model
this small makes 1.3. Only `clock`, which measures time, has the machine for one stage at a time.
"""
