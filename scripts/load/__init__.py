"""Load tests of the shared parts: the registry, the store, and campaigns in parallel.

    python -m scripts.load runs --count 10000 --database postgresql
    python -m scripts.load writers --count 8
    python -m scripts.load trajectories --count 100000
    python -m scripts.load campaigns --count 8

`runs` is the number of campaigns in the registry, `writers` the number of processes that write to
it at once, `trajectories` their number in the store, `campaigns` the number that run at once. Each
prints one JSON object and appends it as a line to docs/results/load.jsonl. All files go to a
temporary folder, which is removed. PostgreSQL is the server named by ERPD_TEST_POSTGRES, or one
started for the test.
"""
