"""What the parts that many share bear: campaigns in the registry, writers at once, trajectories in
the store, campaigns at once.

    python -m scripts.load runs --count 10000 --database postgresql
    python -m scripts.load writers --count 8
    python -m scripts.load trajectories --count 100000
    python -m scripts.load campaigns --count 8

Each prints one JSON object and adds it as a line to docs/results/load.jsonl. Everything is made in
a temporary folder and removed; a PostgreSQL server is the one that ERPD_TEST_POSTGRES names, or one
that is started there.
"""
