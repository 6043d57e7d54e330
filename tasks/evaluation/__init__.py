"""Evaluation: scores of policies on benchmarks, majority votes, signal statistics, LLM judge."""
