"""Figures: matplotlib plots as functions of plain data."""
