"""Recipes: YAML files resolved to frozen configs, studies of several campaigns, and the forms of
Prefect's UI.
"""
