"""Inspection: lineage, campaigns and their comparison, evaluation of models, garbage collection."""
