"""Recipes: YAML files resolved to frozen configs, studies, and the forms of Prefect's UI."""
