"""Benchmarks against peers. `python -m benchmarks.NAME --json` ends with one JSON object."""
