"""Figures: functions that draw matplotlib figures from plain data."""
