"""Code checking: does a program pass its test cases? Each runs in a sandbox: no network, no files,
limited in everything.

In the parent: extract.py (find the program), cases.py (test cases, LiveCodeBench's packed ones),
compare.py (equal outputs), grader.py (many programs), files.py (JSON lines), sandbox.py (one
sandbox), levels.py (how to start one), probe.py (what it really keeps out). In the sandbox:
runner.py (cases in fresh processes), guard.py (limits and filters), jail.py (namespaces without
bubblewrap).
"""
