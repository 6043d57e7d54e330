"""Execution: what a stage is, and how it runs: in this process, as a Prefect task, or on Ray."""
