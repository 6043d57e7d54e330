"""Inspection of finished work: lineage, comparison of campaigns, evaluation of models, garbage
collection.
"""
