"""Grades programs by their test cases, in sandboxes.

A sandboxed program has no network, sees only a read-only view of system files, and has limits on
time, memory, processes and output.

In the parent process:

- extract.py: finds the program in a response
- cases.py: reads test cases, including LiveCodeBench's packed ones
- compare.py: compares a result with the expected one
- grader.py: grades many programs in parallel
- files.py: JSON-lines files
- sandbox.py: controls one program in one sandbox
- levels.py: isolation levels and how to start a sandbox at each
- probe.py: measures what each level blocks on this machine

In the sandbox:

- runner.py: runs each case in a fresh process
- guard.py: resource limits, system-call filter, file restrictions
- jail.py: namespaces and file view on machines without bubblewrap
"""
