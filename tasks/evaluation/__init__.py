"""Evaluation: a policy's scores on benchmarks, majority votes, statistics of signals, and the
LLM judge.
"""
