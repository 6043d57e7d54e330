"""Side-by-side measurements against peers. `python -m benchmarks.NAME --json` prints, as its
last line, one JSON object.
"""
