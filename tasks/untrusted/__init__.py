"""Untrusted input: paths, YAML, text and files that come from outside, each read within limits."""
