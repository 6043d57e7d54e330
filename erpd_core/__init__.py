"""Extreme Region Policy Distillation (arXiv 2605.25582): tensors and decisions, no I/O.

Shape legend; these letters end the names of tensors: `N` response tokens of a batch on one flat
axis, `S` sequences, `G` prompt groups, `T` input tokens of a model call, `H` hidden size, `V`
vocabulary.
"""
